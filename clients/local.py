"""Training for oneself: what local-only asks of a client."""

from __future__ import annotations

from flwr.app import MetricRecord, RecordDict

from fedsim import Site
from fedsim.clients.supervised import Supervised
from fedsim.wire import load_state, pack_state


class Local(Supervised):
    """Train the client's own model further, and keep it in the client's state.

    All clients start from the same weights, those of the server's first model. With `steps`, every
    site does the same work; with `epochs`, a small site gets few steps and looks worse than it is.
    """

    payload = "nothing"
    proximal = False
    payload_kind = "own_model"
    keeps_state = True
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, and report the loss; in a private run nothing."""
        model = site.new_model()
        load_state(model, site.state.array_records.get("arrays") or site.first_arrays())
        metrics = MetricRecord({"num-examples": len(site.train)})
        if site.releases is None:
            metrics["loss"] = self.fit(model, site)
        else:
            self.fit_private(model, site, site.releases)
        site.state["arrays"] = pack_state(model.state_dict())
        return RecordDict({"metrics": metrics})
