"""The sections of a run's page, in the order of what a reader asks."""
