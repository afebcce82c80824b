"""Keys that are right, each for itself, and wrong together."""

from __future__ import annotations

from typing import Any

from fedsim.scenario.checks.adversaries import check_minority
from fedsim.scenario.checks.keys import CLIENTS, LABELLED, LABELLED_GROUPS, Problems, dotted
from fedsim.scenario.parameters import shown
from fedsim.yaml_lines import Document, KeyPath


def check_together(document: Document, wrong: dict[KeyPath, Any]) -> Problems:
    """Keys that are right, each for itself, and wrong together."""
    problems: Problems = []
    clients, share = CLIENTS, ("federation", "participation")
    if not {clients, share, clients[:1]} & wrong.keys():
        number, part = document.get(clients), document.get(share, 1.0)
        # 1/49 of 49 clients is one client, although its product is a little less.
        if number is not None and number < (1 - 1e-9) / part:
            message = f"{dotted(share)}: {shown(part)} of {number} clients is less than one client"
            problems.append((document.place(share), message))
    val, select = ("data", "split", "val"), ("evaluation", "select")
    if document.get(select) == "pooled_val" and document.get(val) == 0:
        problems.append((document.place(select), "evaluation.select: needs data.split.val above 0"))
    scored = ("evaluation", "val_scores")
    if document.get(scored) and document.get(val) == 0:
        message = f"{dotted(scored)}: needs data.split.val above 0"
        problems.append((document.place(scored), message))
    timeout, backend = ("faults", "client_timeout"), ("resources", "backend")
    if document.get(timeout) is not None and document.get(backend) == "inline":
        message = f"{dotted(timeout)}: needs {dotted(backend)}=ray: one process cannot end itself"
        problems.append((document.place(timeout), message))
    deadline, delay = ("faults", "deadline"), ("faults", "delay")
    if document.get(deadline) is not None and not document.get(delay):
        message = f"{dotted(deadline)}: needs {dotted(delay)} above 0"
        problems.append((document.place(deadline), message))
    least = ("faults", "min_clients")
    if not {clients, least} & wrong.keys():
        number, asked = document.get(clients), document.get(least, 1)
        if number is not None and asked > number:
            message = f"{dotted(least)}: {asked} replies of {number} clients"
            problems.append((document.place(least), message))
    if not {CLIENTS, CLIENTS[:1]} & wrong.keys() and all(p[:1] != ("adversary",) for p in wrong):
        problems += check_minority(document)
    of_records = document.get(("privacy",)) and document.get(("privacy", "unit")) != "client"
    hides = [path for path in (LABELLED, LABELLED_GROUPS) if document.get(path) is not None]
    for path in hides if of_records else ():
        message = (
            f"{dotted(path)}: private training takes labelled records alone: leave it out, and "
            "set data.split.fraction for less of them"
        )
        problems.append((document.place(path), message))
    if len(hides) > 1:
        message = f"{dotted(LABELLED_GROUPS)}: {dotted(LABELLED)} says it, too: set one to null"
        problems.append((document.place(LABELLED_GROUPS), message))
    return problems
