"""Client methods and strategies that misbehave, for tests of what fedsim says then."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim import Client, Site, Strategy
from fedsim.clients.supervised import Supervised


class Raises(Supervised):
    """Raises at one client and round."""

    def __init__(self, client: int = 1, round: int = 1) -> None:
        super().__init__()
        self.where = client, round

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or raise."""
        if (site.client, site.round) == self.where:
            raise RuntimeError("the scanner is on fire")
        return super().train(content, site)


class Counts(Client):
    """Keeps a number in its state, and edits what it was sent."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Count the rounds this client has seen."""
        assert "marked" not in content, "another client's edit arrived here"
        content["marked"] = ConfigRecord({"by": site.client})
        seen = int(site.state["seen"]["rounds"]) + 1 if "seen" in site.state else 1
        site.state["seen"] = MetricRecord({"rounds": seen})
        metrics = MetricRecord({"num-examples": len(site.train), "seen": seen})
        return RecordDict({"arrays": content["arrays"], "metrics": metrics})


class Forgets(Strategy):
    """Fails while it aggregates."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Raise after hearing all replies."""
        list(replies)
        raise KeyError("weights")


class Lonely(Strategy):
    """Waits for more clients than there are, as Flower's sampling does."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for ever."""
        while len(list(grid.get_node_ids())) < 1000:
            pass
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Never called."""
        raise AssertionError
