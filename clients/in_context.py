"""In-context segmentation: a site's labelled cases become its support set, and nothing is trained.

The strategy is `strategies/in_context.py`, the network `fedsim/models/in_context.py`, the method
card `docs/methods/in_context.md`.
"""

from __future__ import annotations

from typing import Any, Literal

from flwr.app import MetricRecord, RecordDict

from fedsim import Client, InputError, Site
from fedsim.tasks.segmentation import SegmentationSite
from fedsim.wire import load_state, pack_state


class InContext(Client):
    """Keep the outlined slices of the site's labelled cases beside the frozen network.

    Args:
        slices: "outlined" takes the slices that hold a structure, "all" also the empty ones, from
            which the network learns where nothing is to be outlined.
    """

    payload = "nothing"
    payload_kind = "in_context"
    made_for = "volumes"
    keeps_state = True
    private = "none"
    side_by_side = True

    def __init__(self, slices: Literal["outlined", "all"] = "all") -> None:
        self.slices = slices

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Take the support set, and say how many cases and slices it has; neither travels."""
        here, model = SegmentationSite.of(site), site.new_model()
        remember: Any = getattr(model, "remember", None)
        if remember is None:
            raise InputError(
                f"client method 'in_context' needs a network with a support set, and the model is "
                f"a {type(model).__name__}",
                hint="type model.name=in_context",
            )
        load_state(model, site.first_arrays())
        cases = [here.train.volume(position) for position in range(len(here.train))]
        try:
            count = remember(cases, site.seed("support"), empty=self.slices == "all")
        except ValueError as error:
            raise InputError(
                f"client {site.name} cannot answer from its labelled cases: {error}",
                hint="set model.capacity, client.slices or federation.labelled_groups",
            ) from error
        site.state["arrays"] = pack_state(model.state_dict())
        metrics = MetricRecord({"num-examples": len(cases), "support-slices": count})
        return RecordDict({"metrics": metrics})

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Dice of the site's own support set on its validation cases."""
        own = site.state.array_records.get("arrays") or site.first_arrays()
        return super().evaluate(RecordDict({"arrays": own}), site)
