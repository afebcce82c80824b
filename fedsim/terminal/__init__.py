"""The terminal: what a person sees while fedsim works, and completes with the tab key."""
