"""What a node and the server are told where they are started: `--node-config`, `--run-config`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import InputError, Problem

RUN_DEFAULTS: dict[str, str | int | float | bool] = {
    "seed": 0,
    "runs": "runs",
    "data-root": "",
    "server-data": True,
    "wait": 600,
}
"""Keys of `--run-config` with their defaults, as the app's `pyproject.toml` lists them."""

_NODE_KEYS = ("client", "data-root", "data", "epsilon-limit", "epsilon-delta", "epsilon-file")
# Flower's own names of the first, which its simulation gives to every node.
_FLOWERS = ("partition-id", "num-partitions")


@dataclass(frozen=True)
class NodeSettings:
    """What a node is told by `--node-config`.

    Attributes:
        client: the number of the client that it is; Flower's simulation calls it `partition-id`.
        root: `data-root`, the folder with its records; None: the generated stand-in.
        whole: `data="whole"`: all records in the folder are its own. `data="share"`: those that
            the scenario's partition gives to the client.
        limit: `epsilon-limit`, what its records may pay over all runs; None: it has no limit.
        delta: `epsilon-delta`, at which the limit holds; None: the first run's.
        file: `epsilon-file`, in which it counts.
    """

    client: int
    root: str | None = None
    whole: bool = False
    limit: float | None = None
    delta: float | None = None
    file: Path = Path()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> NodeSettings:
        """Read them; InputError, with all that is wrong, where they cannot be used."""
        problems = []

        def value(key: str, kinds: type | tuple[type, ...], good: Any, wanted: str) -> Any:
            found = given.get(key)
            right = isinstance(found, kinds) and not isinstance(found, bool) and good(found)
            if found is None or right:
                return found
            problems.append(Problem("--node-config", f"{key} is {found!r}, but must be {wanted}"))
            return None

        def filled(text: str) -> bool:
            return bool(text.strip())

        client = value("client", int, lambda n: n >= 0, "a client's number, from 0")
        root = value("data-root", str, os.path.isdir, "a folder that is there")
        form = value("data", str, ("share", "whole").__contains__, '"share" or "whole"')
        limit = value("epsilon-limit", (int, float), lambda x: 0 < x < 1e6, "a number above 0")
        delta = value("epsilon-delta", (int, float), lambda x: 0 < x < 1, "between 0 and 1")
        file = value("epsilon-file", str, filled, "a file")
        if client is None and "client" not in given:
            client = given.get("partition-id")
            if client is None:
                what = "client is missing: the number of the client that this node is, such as"
                problems.append(Problem("--node-config", f"{what} client=0"))
        if form == "whole" and "data-root" not in given:
            problems.append(Problem("--node-config", 'data="whole" needs data-root="DIR"'))
        if limit is not None and "epsilon-file" not in given:
            what = 'epsilon-limit needs epsilon-file="FILE", in which the node counts'
            problems.append(Problem("--node-config", what))
        if limit is None and "epsilon-limit" not in given:
            for key in ("epsilon-delta", "epsilon-file"):
                if key in given:
                    problems.append(Problem("--node-config", f"{key} needs epsilon-limit=NUMBER"))
        known = [*_NODE_KEYS, *_FLOWERS]
        for key in sorted(set(given) - set(known)):
            # Other apps on the same node may have keys of their own.
            if near := difflib.get_close_matches(key, known, 1, 0.8):
                what = f"there is no {key} (did you mean {near[0]!r}?)"
                problems.append(Problem("--node-config", what))
        if problems:
            raise InputError("the node's configuration cannot be used", problems)
        return cls(
            int(client),
            None if root is None else os.path.abspath(root),
            form == "whole",
            None if limit is None else float(limit),
            None if delta is None else float(delta),
            Path(file or "").expanduser(),
        )


@dataclass(frozen=True)
class RunSettings:
    """What the server is told by `--run-config`.

    Attributes:
        seed: of the run.
        runs: the folder of runs, as seen from where the SuperLink was started.
        root: `data-root`, the folder of the server's own data; None: the generated stand-in.
        scores: `server-data`: whether the server has data, to score the model on their test split.
        wait: seconds in which all nodes must have said who they are.
    """

    seed: int
    runs: Path
    root: str | None
    scores: bool
    wait: float

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> RunSettings:
        """Read them; InputError, with all that is wrong, where they cannot be used."""
        values = RUN_DEFAULTS | {key: given[key] for key in RUN_DEFAULTS if key in given}
        problems = []
        for key, kinds, wanted in (
            ("seed", int, "a whole number from 0"),
            ("runs", str, "a folder"),
            ("data-root", str, "a folder"),
            ("server-data", bool, "true or false"),
            ("wait", (int, float), "seconds above 0"),
        ):
            found: Any = values[key]
            right = isinstance(found, kinds) and (key == "server-data" or found is not True)
            if key in ("seed", "wait") and right:
                right = found >= (0 if key == "seed" else 1e-3)
            if key == "data-root" and right and found and not os.path.isdir(found):
                right, wanted = False, "a folder that is there"
            if not right:
                what = f"{key} is {found!r}, but must be {wanted}"
                problems.append(Problem("--run-config", what))
        if problems:
            raise InputError("the run's configuration cannot be used", problems)
        root: Any = values["data-root"]
        return cls(
            int(values["seed"]),
            Path(str(values["runs"])).expanduser(),
            os.path.abspath(root) if root else None,
            bool(values["server-data"]),
            float(values["wait"]),
        )
