"""What a strategy or a client method declares of itself: all refusals and lists read it here.

A class that declares nothing, a third party's for instance, is let through.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.method.flower_strategies import declared_for
from fedsim.scenario.parameters import shown
from fedsim.tasks.task import Task

PAYLOADS = {
    "arrays": "models",
    "images": "images with labels",
    "nothing": "no model: each keeps its own",
    "statistics": "statistics of feature vectors",
}
"""Kind of payload -> what clients send, in words."""

NO_PRIVATE_FORM = "none"


@dataclass(frozen=True)
class Capabilities:
    """What a plugin's class attributes declare; the defaults stand for what is not declared.

    Attributes:
        payload: what clients send, one of `PAYLOADS`; "": not declared.
        payload_kind: which of the payloads of that name; "": not declared.
        made_for: the tasks, each by its `made_for`; (): not declared.
        one_shot: clients send once.
        local: there is no global model.
        linear: the model depends on the replies by a weighted sum of them alone; None: not
            declared.
        takes_older: replies to older models will do; None: not declared.
        withdrawal: what a finished run keeps, from which a client can be taken out: "model" or
            "history"; "": nothing. Of the class itself.
        order_matters: another order of the replies gives another model.
        needs_losses: replies are weighted by the training losses that clients report.
        keeps_state: a client keeps something from round to round; None: not declared.
        private: the private form of a client method, "none" where it has none; "": not declared.
        full_batch: its private form samples all units.
        sends_release: its answer in a private run is one release.
        learns_unlabelled: a client method learns from records without labels, too.
        proximal: a client method adds the proximal term that a message asks for.
        simulates: what of a client method only a simulation does, in words.
        changes: records of replies beside the model that are changes of what the server sends.
        exact: why models must arrive as they were sent, in words; "" where they need not.
    """

    payload: str = ""
    payload_kind: str = ""
    made_for: tuple[str, ...] = ()
    one_shot: bool = False
    local: bool = False
    linear: bool | None = None
    takes_older: bool | None = None
    withdrawal: str = ""
    order_matters: bool = False
    needs_losses: bool = False
    keeps_state: bool | None = None
    private: str = ""
    full_batch: bool = False
    sends_release: bool = False
    learns_unlabelled: bool = False
    proximal: bool = False
    simulates: str = ""
    changes: tuple[str, ...] = ()
    exact: str = ""

    def words(self, group: str) -> dict[str, str]:
        """What a plugin of a group declares, for a person: what is asked -> the answer."""
        found = {"task": ", ".join(self.made_for) or "any"}
        if group in ("strategies", "clients"):
            found["payload"] = self.payload or _UNSAID
        if group == "strategies":
            found |= {
                "one-shot": _YES[self.one_shot],
                "linear": _YES[self.linear],
                "order matters": _YES[self.order_matters],
            }
        if group == "clients":
            found |= {"keeps state": _YES[self.keeps_state], "private": self.private or _UNSAID}
        return found


_UNSAID = "not declared"
_YES = {True: "yes", False: "no", None: _UNSAID}


def capabilities(plugin: Any) -> Capabilities:
    """What a plugin declares: a strategy, client method or model, its class, or a partial of it.

    Values of another type, and payloads that nobody knows, count as not declared. For Flower's own
    strategies `fedsim.method.flower_strategies` declares.
    """
    kind = class_of(plugin) or plugin
    flowers = declared_for(kind if isinstance(kind, type) else type(kind))

    def said(name: str, *types: type) -> Any:
        value = getattr(kind, name, None)
        return value if isinstance(value, types) else flowers.get(name)

    learns: Any = getattr(kind, "learns", None)
    of_task = isinstance(learns, type) and issubclass(learns, Task)
    payload = said("payload", str) or ""
    return Capabilities(
        payload=payload if payload in PAYLOADS else "",
        payload_kind=said("payload_kind", str) or "",
        made_for=_words(learns.made_for if of_task else said("made_for", str, tuple)),
        one_shot=bool(said("one_shot", bool)),
        local=bool(said("local", bool)),
        linear=said("linear", bool),
        takes_older=said("takes_older", bool),
        withdrawal=said("withdrawal", str) if "withdrawal" in _own(kind) else "",
        order_matters=bool(said("order_matters", bool)),
        needs_losses=bool(said("needs_losses", bool)),
        keeps_state=said("keeps_state", bool),
        private=said("private", str) or "",
        full_batch=bool(said("full_batch", bool)),
        sends_release=bool(said("sends_release", bool)),
        learns_unlabelled=bool(said("learns_unlabelled", bool)),
        proximal=bool(said("proximal", bool)),
        simulates=said("simulates", str) or "",
        changes=_words(said("changes", tuple)),
        exact=said("exact", str) or "",
    )


def _own(kind: Any) -> Mapping[str, Any]:
    """What a class says of itself; of an object, what its class does."""
    return vars(kind if isinstance(kind, type) else type(kind))


def _words(told: Any) -> tuple[str, ...]:
    """What a class declares as one word or several."""
    several = (told,) if isinstance(told, str) else told or ()
    return tuple(one for one in several if isinstance(one, str) and one)


_TEXTS = ("payload", "payload_kind", "private", "simulates", "exact", "withdrawal")
_TEXT_OR_SEVERAL = ("made_for",)
_SEVERAL = ("changes",)
_SWITCHES = (
    "one_shot",
    "local",
    "linear",
    "takes_older",
    "order_matters",
    "needs_losses",
    "keeps_state",
    "full_batch",
    "sends_release",
    "learns_unlabelled",
    "proximal",
)
_BASES = ("fedsim.method.client", "fedsim.method.strategy")


def ill_declared(plugin: Any) -> str:
    """What a plugin's class declares and nobody can read, in words; "" where all can be read."""
    kind = class_of(plugin)
    # Others' classes may mean something else by these names.
    if kind is None or not any(base.__module__ in _BASES for base in kind.__mro__):
        return ""
    for names, known, wanted in (
        (_TEXTS, str, "a text"),
        (_TEXT_OR_SEVERAL, str | tuple, "a text, or a tuple of texts"),
        (_SEVERAL, tuple, "a tuple of texts"),
        (_SWITCHES, bool, "True or False"),
    ):
        for name in names:
            value = getattr(kind, name, None)
            if value is not None and not isinstance(value, known | property):
                return f"{kind.__name__}.{name} is {shown(value)}, but must be {wanted}"
    payload = getattr(kind, "payload", "")
    if not isinstance(payload, str):
        return ""
    # A word of the author's own says that what is sent is something else.
    near = difflib.get_close_matches(payload, PAYLOADS, n=1, cutoff=0.75)
    if payload not in PAYLOADS and near:
        return f"{kind.__name__}.payload is {payload!r} (did you mean {near[0]!r}?)"
    return ""


def class_of(factory: Any) -> type | None:
    """The class that a factory makes objects of; None where it is neither class nor partial."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory if inspect.isclass(factory) else None
