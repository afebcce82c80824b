"""What watches a run: the protocol (`fedsim.observers.base`), and the observers of every run."""

from fedsim.observers.base import End, Exchange, Finished, Observer, Progress, Reply, Row, Run

__all__ = ["End", "Exchange", "Finished", "Observer", "Progress", "Reply", "Row", "Run"]
