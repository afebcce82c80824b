"""The engine: from a scenario to a run that is done. It knows no method and no observer by name.

`prepare` makes all that a run is made of, `assembly` puts it together with a grid and ledgers, the
loop runs the rounds, `outcome` sums up, and `running` is a run's life around that.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.engine.prepare import Prepared, check_model
    from fedsim.engine.privacy import privacy_plan, with_unit
    from fedsim.engine.strategies import build_strategy, disclosed_by_client, is_one_shot

__all__ = [
    "Prepared",
    "build_strategy",
    "check_model",
    "disclosed_by_client",
    "is_one_shot",
    "privacy_plan",
    "with_unit",
]

__getattr__ = lazily(
    __name__,
    {
        "Prepared": "fedsim.engine.prepare",
        "build_strategy": "fedsim.engine.strategies",
        "check_model": "fedsim.engine.prepare",
        "disclosed_by_client": "fedsim.engine.strategies",
        "is_one_shot": "fedsim.engine.strategies",
        "privacy_plan": "fedsim.engine.privacy",
        "with_unit": "fedsim.engine.privacy",
    },
)
