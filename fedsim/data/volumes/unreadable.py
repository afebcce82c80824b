"""What is raised of a file that is no volume."""

from __future__ import annotations


class Unreadable(Exception):
    """A file is no volume that can be used; the message says why, without naming the file."""
