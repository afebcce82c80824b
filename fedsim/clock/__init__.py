"""Simulated time: how fast clients are, who works when, and what late replies count.

It knows no run: `fedsim/engine/timing.py` does.
"""

from fedsim.clock.agenda import Agenda, Task, plan
from fedsim.clock.paces import Pace, paces_of
from fedsim.clock.stale import moved, weight

__all__ = ["Agenda", "Pace", "Task", "moved", "paces_of", "plan", "weight"]
