"""Writing a scenario as a Flower app: two modules that call fedsim, the scenario, and how to start.

The templates lie beside this file; `@name@` and its like stand for the scenario's own.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from fedsim import __version__
from fedsim.deployment.exported import FACTS, SCENARIO, Facts
from fedsim.deployment.refusing import require_deployable
from fedsim.deployment.settings import RUN_DEFAULTS
from fedsim.engine.prepare import Prepared, prepare
from fedsim.errors import InputError
from fedsim.scenario import Scenario

_MARK = ".txt"


def export_app(
    scenario: Scenario,
    folder: Path,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Facts:
    """Write a scenario's app into a new or empty folder.

    The scenario is prepared here, on the data or the stand-in that it has here, so that what cannot
    run is refused now. Private runs are written with `privacy.noise: secret`.

    Args:
        scenario: what to write; its first seed is the app's.
        folder: where.
        say: is told when weights are fetched, and when a search for the noise begins.
        progress: is told how many images are decoded, and of how many.

    Returns:
        What the app's machines must agree in.

    Raises:
        InputError: the scenario cannot be deployed or cannot run, or the folder cannot be used.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"{folder} is there, and is no empty folder: nothing was written",
            hint="name a folder that is not there yet",
        )
    require_deployable(scenario)
    prepared = prepare(scenario, scenario.seeds[0], say, progress)
    facts = Facts.of(prepared.federation)
    files = _rendered(prepared, facts)
    there = folder.exists()
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        if not there:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"cannot write {folder}: {error.strerror}") from error
    return facts


def package_of_app(scenario: Scenario) -> str:
    """The name of an app's package: an identifier that no scenario shares with a module."""
    return "app_" + re.sub(r"\W", "_", scenario.name.lower(), flags=re.ASCII)


def deployed(scenario: Scenario) -> Scenario:
    """The scenario as an app holds it: without what belongs to one machine, and with secret noise.

    Noise that comes from a seed, which everybody has, would hide nothing.
    """
    # Nobody asks for the backend any more; with this one all of `faults` may be set.
    resources = scenario.resources.model_copy(
        update={"backend": "ray", "workers": None, "ray_address": None}
    )
    changes: dict[str, object] = {
        "data": scenario.data.model_copy(update={"root": None}),
        "resources": resources,
        "seeds": scenario.seeds[:1],
    }
    if scenario.privacy is not None:
        changes["privacy"] = scenario.privacy.model_copy(update={"noise": "secret"})
    return scenario.model_copy(update=changes)


def _rendered(prepared: Prepared, facts: Facts) -> dict[str, str]:
    """The files of an app: path below its folder -> text."""
    scenario = prepared.scenario
    package = package_of_app(scenario)
    distribution = re.sub(r"[^a-z0-9]+", "-", scenario.name.lower()).strip("-") or "scenario"
    defaults = RUN_DEFAULTS | {"seed": prepared.seed}
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in defaults.items())
    private = scenario.privacy is not None and scenario.privacy.unit != "client"
    limit = ' epsilon-limit=8.0 epsilon-file="FILE"' if private else ""
    values = {
        "@name@": scenario.name,
        "@package@": package,
        "@distribution@": distribution,
        "@version@": __version__,
        "@config@": config,
        "@nodes@": str(len(facts.clients)),
        "@last@": str(len(facts.clients) - 1),
        "@root@": ' data-root="DIR"' if facts.root else "",
        "@limit@": limit,
    }
    found = {
        f"{package}/{SCENARIO}": deployed(scenario).to_yaml(),
        f"{package}/{FACTS}": facts.to_yaml(),
    }
    for name in ("pyproject.toml", "README.md", "__init__.py", "server.py", "client.py"):
        text = _template(name)
        for mark, value in values.items():
            text = text.replace(mark, value)
        found[f"{package}/{name}" if name.endswith(".py") else name] = text
    return found


def _template(name: str) -> str:
    room = importlib.resources.files("fedsim.deployment") / "templates" / f"{name}{_MARK}"
    return room.read_text(encoding="utf-8")
