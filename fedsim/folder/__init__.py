"""The run folder: what a run writes, how it goes on after a kill, and what tells it from others."""
