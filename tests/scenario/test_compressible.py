"""Which shipped scenarios compress what they send: all that average models, or they say why not."""

from __future__ import annotations

import pytest

from fedsim.api import estimate
from fedsim.errors import InputError
from fedsim.method.capabilities import capabilities
from fedsim.registry import default_registry
from fedsim.scenario import Scenario, load
from fedsim.scenario.files import names
from fedsim.terminal.console import Console
from tests.shipped import OWN_DATA, needed

UINT8 = "wire.codec=uint8"

# One for each pair of a strategy and a client method.
RUN = (
    *("brain_recon_fedavg", "brain_recon_fedprox", "hippocampus_fewlabels_fedcot"),
    *("hippocampus_fewlabels_mt", "hippocampus_fewlabels_pl", "hippocampus_partial_condist"),
    *("hippocampus_partial_fedavg", "hippocampus_partial_fedopt", "hippocampus_partial_fedprox"),
    *("isic_fewlabels_fixmatch", "isic_fewlabels_mt", "isic_fewlabels_pl", "isic_longtail_creff"),
    *("isic_longtail_fedavg", "isic_longtail_fedmas", "isic_longtail_fedprox"),
    *("isic_longtail_moon", "isic_noniid_disbelieve", "isic_noniid_dpsgd"),
)

# Of records there are few, for a step of each client.
SMALL = {
    "hippocampus": ("data.embedded.cases=30",),
    "isic_fewlabels": ("data.embedded.images=600",),
    "isic_longtail": ("data.embedded.images=600",),
}


def pair(scenario: Scenario) -> tuple[str, str]:
    return scenario.strategy.name, scenario.client.name


def test_all_that_average_models_take_it_and_all_others_say_why_not() -> None:
    taken = set()
    for name in names():
        if name in OWN_DATA:
            continue
        plain = load(name, needed(name))
        kinds = [
            capabilities(default_registry().resolve(group, plugin))
            for group, plugin in zip(("strategies", "clients"), pair(plain), strict=True)
        ]
        averages = all(kind.payload == "arrays" and not kind.exact for kind in kinds)
        try:
            taken.add(pair(load(name, [*needed(name), UINT8])))
        except InputError as refused:
            assert not averages, f"{name} averages models, and refuses {UINT8}"
            (problem,) = refused.problems
            assert problem.message.startswith("wire: with "), problem.message
        else:
            assert averages, name
    assert taken == {pair(load(name)) for name in RUN}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_tiny_round_of_it_runs_and_sends_less(name: str) -> None:
    console = Console(quiet=True)
    few = [word for of, words in SMALL.items() if name.startswith(of) for word in words]
    found = estimate(load(name, [UINT8, *few]), 0, console, steps=1)
    # A teacher travels beside the model, exact; at first both are the same arrays, sent down once.
    beside = found.mb_down if "fedcot" in name else 0
    assert 0 < found.mb_up < found.mb_down + beside
