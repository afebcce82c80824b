"""The engine: from a scenario to a run that is done. It knows no method and no observer by name.

`prepare` makes all that a run is made of, `assembly` puts it together with a grid and ledgers, the
loop (`fedsim.loop`) runs the rounds, `outcome` sums up, and `running` is a run's life around that.
"""

from fedsim.engine.prepare import Prepared, check_model, prepare
from fedsim.engine.privacy import privacy_plan, with_unit
from fedsim.engine.strategies import build_strategy, client_releases, is_one_shot

__all__ = [
    "Prepared",
    "build_strategy",
    "check_model",
    "client_releases",
    "is_one_shot",
    "prepare",
    "privacy_plan",
    "with_unit",
]
