"""What a check may end in, beside what it found."""

from __future__ import annotations

ON_RAY = "the same bits on Ray"
"""Name of the check that is asked for: it starts Ray."""


class CheckFailed(AssertionError):
    """The plugin breaks what fedsim asks of it; says what, and where."""


class NotApplicable(Exception):
    """The check says nothing of this plugin; says why."""
