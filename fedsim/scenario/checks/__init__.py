"""What a scenario says, checked before anything runs. Each file has the checks of one subject."""

from fedsim.scenario.checks.adversaries import no_minority
from fedsim.scenario.checks.keys import MODEL_FILE, Problems, dotted
from fedsim.scenario.checks.overrides import check_overrides
from fedsim.scenario.checks.paths import make_absolute
from fedsim.scenario.checks.plugins import SUPPLIED, activate, check_plugins, refused_for_clients
from fedsim.scenario.checks.together import check_together

__all__ = [
    "MODEL_FILE",
    "SUPPLIED",
    "Problems",
    "activate",
    "check_overrides",
    "check_plugins",
    "check_together",
    "dotted",
    "make_absolute",
    "no_minority",
    "refused_for_clients",
]
