"""Which records a client is asked to forget (`forget` of `federation.overrides`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsim.errors import InputError, Problem, nearest
from fedsim.randomness import Streams
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import PATH

_LOOKED_AT = 20  # names that a message may list


def records_to_forget(
    scenario: Scenario, store: Any, train: Mapping[str, np.ndarray], streams: Streams
) -> dict[str, np.ndarray]:
    """Client name -> positions in the store of the training records that it is asked to forget.

    Raises:
        InputError: records or patients are named that are not with the client.
    """
    found: dict[str, np.ndarray] = {}
    problems: list[Problem] = []
    for client, (name, held) in enumerate(train.items()):
        override = scenario.federation.overrides.get(name)
        if override is None or override.forget is None:
            continue
        wanted = override.forget
        if wanted.share is not None:
            groups = np.unique(store.groups[held])
            count = min(len(groups), max(1, round(wanted.share * len(groups))))
            chosen = streams.numpy("forget", client=client).choice(groups, count, replace=False)
            found[name] = held[np.isin(store.groups[held], chosen)]
            continue
        key = "records" if wanted.records else "patients"
        titles = store.ids if wanted.records else store.patients
        asked = set(wanted.records or wanted.patients)
        here = [titles[i] if titles else "" for i in held.tolist()]
        # A record without a name is nobody's.
        asked.discard("")
        found[name] = held[np.isin(np.array(here, dtype=object), list(asked))]
        for title in sorted(asked - set(here)):
            path = (*PATH, name, "forget", key)
            near = nearest(title, [one for one in set(here) if one][:_LOOKED_AT])
            why = f"is not with this client{near}"
            if titles and title in titles:
                why = (
                    "is not with this client's training records: it is another client's, or one to "
                    "validate or test with, which no model has learned"
                )
            message = f"{'.'.join(path)}: {title!r} {why}"
            problems.append(Problem(scenario.place(*path), message))
    if problems:
        raise InputError("records to forget that are not there", problems)
    return found
