"""What a server keeps of a training, so that a client can be taken out of it later.

Each memory is told of every round, holds a bounded number of models and some numbers a round, and
lies in the strategy's state. So it is in every checkpoint, and survives a kill. Who may leave is
known beforehand or, in a training that keeps for whoever asks, is anybody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fedsim.method.received import Arrays
from fedsim.unlearning.formulas import (
    Lengths,
    Norms,
    distance,
    lengths,
    moved,
    sensitivity,
    sensitivity_by_coordinate,
    weighted_mean,
    without,
)


@dataclass(frozen=True)
class Observed:
    """A round of the training, as the server saw it.

    Attributes:
        round: its number, from 1.
        sent: the model that clients were sent.
        models: client -> the model that it sent back, of the dtypes of `sent`.
        weights: client -> its weight in the average.
        after: the average, of the dtypes of `sent`.
    """

    round: int
    sent: Arrays
    models: Mapping[int, Arrays]
    weights: Mapping[int, float]
    after: Arrays

    def updates(self) -> dict[int, Arrays]:
        """Client -> what it changed, float64."""
        return {
            client: {
                name: value.astype(np.float64) - self.sent[name] for name, value in row.items()
            }
            for client, row in self.models.items()
        }

    def share(self, client: int) -> float:
        """The client's share of the average; 0 where it did not answer."""
        return self.weights.get(client, 0.0) / sum(self.weights.values())


def rounded(arrays: Arrays, like: Arrays) -> Arrays:
    """Arrays with the dtypes of others of the same names."""
    return {name: np.asarray(value).astype(like[name].dtype) for name, value in arrays.items()}


class Memory(ABC):
    """What is kept for one kind of procedure.

    Args:
        leavers: the clients that may leave, ascending.
        clients: how many clients there are.
    """

    name: ClassVar[str]
    """Its key in the state of a strategy."""
    words: ClassVar[str]
    """What it keeps, for a person."""

    def __init__(self, leavers: Sequence[int], clients: int) -> None:
        self.leavers = list(leavers)
        self.clients = clients

    @property
    def settings(self) -> dict[str, Any]:
        """What another memory of this kind must agree in to have the same content."""
        return {}

    @abstractmethod
    def observe(self, seen: Observed) -> None:
        """Take in a round."""

    @abstractmethod
    def models(self) -> int:
        """How many models it holds at most."""

    def numbers(self, rounds: int, arrays: int) -> int:
        """How many single numbers it holds at most, after so many rounds of a model of so many
        arrays."""
        return 0

    def bytes(self, rounds: int, model: Arrays) -> int:
        """What it takes at most, after so many rounds of this model."""
        whole = sum(value.nbytes for value in model.values())
        return self.models() * whole + 8 * self.numbers(rounds, len(model))

    def state_dict(self) -> dict[str, Any]:
        """All that it holds."""
        return {"settings": self.settings, "kept": self._kept()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, of this memory or of one for more leavers.

        Raises:
            ValueError: it was kept with other settings.
        """
        other = dict(state["settings"])
        if other != self.settings:
            named = [key for key in self.settings if other.get(key) != self.settings[key]]
            told = ", ".join(
                f"{key} {other.get(key)!r}, not {self.settings[key]!r}" for key in named
            )
            raise ValueError(f"{self.words} were kept for {told}")
        self._take(state["kept"])

    @abstractmethod
    def _kept(self) -> dict[str, Any]: ...

    @abstractmethod
    def _take(self, kept: Mapping[str, Any]) -> None: ...

    def _only_leavers(self, found: Mapping[int, Any]) -> dict[int, Any]:
        return {client: found[client] for client in self.leavers if client in found}


class LastModels(Memory):
    """What clients sent in the last round (FedAccum as its code has it, PGA, the last update)."""

    name = "last_models"
    words = "the models of the last round"

    def __init__(self, leavers: Sequence[int], clients: int) -> None:
        super().__init__(leavers, clients)
        self.sent: Arrays = {}
        self.last: dict[int, Arrays] = {}
        self.weights: dict[int, float] = {}

    def observe(self, seen: Observed) -> None:
        """Forget the round before, and keep this one."""
        self.sent, self.last, self.weights = _own(seen.sent), dict(seen.models), dict(seen.weights)

    def models(self) -> int:
        """One a client, and what they were sent."""
        return self.clients + 1

    def numbers(self, rounds: int, arrays: int) -> int:
        """The weights."""
        return self.clients

    def _kept(self) -> dict[str, Any]:
        return {"sent": self.sent, "last": self.last, "weights": self.weights}

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.sent, self.last = dict(kept["sent"]), dict(kept["last"])
        self.weights = dict(kept["weights"])


class _Sums(Memory):
    """For each leaver, one sum over the rounds, of the size of a model."""

    def __init__(self, leavers: Sequence[int], clients: int) -> None:
        super().__init__(leavers, clients)
        self.sums: dict[int, Arrays] = {}

    def models(self) -> int:
        """One a leaver."""
        return len(self.leavers)

    def _kept(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.sums = self._only_leavers(kept["sums"])


class Accumulated(_Sums):
    """For each leaver, the first model and the others' changes (FedAccum, Liu et al. 2021)."""

    name = "accumulated"
    words = "the sums of the others' updates"

    def observe(self, seen: Observed) -> None:
        """Add the mean update of all but the leaver; nothing where the leaver was alone."""
        updates = seen.updates()
        for client in self.leavers:
            before = self.sums.get(client, seen.sent)
            others = without(updates, client)
            if others:
                before = moved(before, weighted_mean(others, seen.weights))
            self.sums[client] = rounded(before, seen.sent)


class Contributions(_Sums):
    """For each leaver, the sum over rounds of its share times its update (UKD; Wu et al. 2022).

    Args:
        of: "updates", as the paper; "models" sums the share times the model, as the code of the
            prostate paper does by mistake.
    """

    name = "contributions"
    words = "the sums of each client's own updates"

    def __init__(
        self, leavers: Sequence[int], clients: int, of: Literal["updates", "models"] = "updates"
    ) -> None:
        super().__init__(leavers, clients)
        self.of = of

    @property
    def settings(self) -> dict[str, Any]:
        """What is summed."""
        return {"of": self.of}

    def observe(self, seen: Observed) -> None:
        """Add what the round has of each leaver."""
        rows = seen.updates() if self.of == "updates" else seen.models
        for client in self._only_leavers(rows):
            share, row = seen.share(client), rows[client]
            found = moved(self.sums.get(client, _zeros(seen.sent)), row, share)
            self.sums[client] = rounded(found, seen.sent)


class FirstAndNorms(Memory):
    """The updates of the first round, and lengths of all later ones (FedEraser; Liu et al. 2021).

    The calibrated step needs lengths and no tensors, so that the papers' full history is not kept.

    Args:
        norms: over what a length is taken.
    """

    name = "first_and_norms"
    words = "the first updates and the norms of all"

    def __init__(self, leavers: Sequence[int], clients: int, norms: Norms = "client") -> None:
        super().__init__(leavers, clients)
        self.norms: Norms = norms
        self.first: dict[int, Arrays] = {}
        self.first_weights: dict[int, float] = {}
        # What is pooled depends on who leaves: leaver (or nobody) -> round -> client -> lengths.
        self.rows: dict[int, dict[int, dict[int, Lengths]]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Over what a length is taken."""
        return {"norms": self.norms}

    def observe(self, seen: Observed) -> None:
        """Keep the lengths and, of the first round, the updates themselves."""
        updates = seen.updates()
        if not self.first:
            self.first = {c: rounded(row, seen.sent) for c, row in updates.items()}
            self.first_weights = dict(seen.weights)
        for leaver in self._keys():
            rows = without(updates, leaver)
            found = lengths(rows, seen.weights, self.norms) if rows else {}
            if self.norms == "client":  # One number stands for all arrays.
                found = {client: {_ALL: next(iter(row.values()))} for client, row in found.items()}
            self.rows.setdefault(leaver, {})[seen.round] = found

    def of_round(self, round: int, leaver: int) -> dict[int, Lengths]:
        """Client -> name -> length, of a round, without the leaver's; {} where nobody answered."""
        key = leaver if self.norms == "pooled" else _NOBODY
        found = self.rows.get(key, {}).get(round, {})
        kept = {client: row for client, row in found.items() if client != leaver}
        if self.norms != "client":
            return kept
        names = list(next(iter(self.first.values())))
        return {client: dict.fromkeys(names, row[_ALL]) for client, row in kept.items()}

    def models(self) -> int:
        """One a client."""
        return self.clients

    def numbers(self, rounds: int, arrays: int) -> int:
        """A number for each round and what a length is of."""
        each = {"client": self.clients, "layer": self.clients * arrays}
        pooled = len(self.leavers) * arrays * self.clients
        return self.clients + rounds * each.get(self.norms, pooled)

    def _keys(self) -> list[int]:
        return self.leavers if self.norms == "pooled" else [_NOBODY]

    def _kept(self) -> dict[str, Any]:
        return {"first": self.first, "first_weights": self.first_weights, "rows": self.rows}

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.first, self.first_weights = dict(kept["first"]), dict(kept["first_weights"])
        self.rows = {key: dict(kept["rows"][key]) for key in self._keys() if key in kept["rows"]}


_NOBODY = -1
_ALL = ""


class Sensitivities(Memory):
    """For each leaver, the bound Psi after each round, and the last model that is below psi.

    Psi(t) = contraction Psi(t-1) + p_c / (1 - p_c) |theta_c - theta(t)| (Fraboni et al. 2024).

    Args:
        psi: the largest bound of a model to restart from.
        contraction: (1 - learning rate lambda)^K of lambda-strongly convex losses; 1 of
            convex ones.
        euclidean: whether Psi is of the Euclidean norm; else of each coordinate by itself, and what
            is compared with psi is the largest.
    """

    name = "sensitivities"
    words = "the bounds of each client and the last model below psi"

    def __init__(
        self,
        leavers: Sequence[int],
        clients: int,
        psi: float,
        contraction: float = 1.0,
        euclidean: bool = True,
    ) -> None:
        super().__init__(leavers, clients)
        self.psi = psi
        self.contraction = contraction
        self.euclidean = euclidean
        self.terms: dict[int, list[float]] = {}
        self.bounds: dict[int, list[float]] = {}
        self.restart: dict[int, int] = {}
        self.checkpoints: dict[int, Arrays] = {}
        self._by_coordinate: dict[int, Arrays] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What the bounds and the checkpoints depend on."""
        return {"psi": self.psi, "contraction": self.contraction, "euclidean": self.euclidean}

    def observe(self, seen: Observed) -> None:
        """Add each leaver's term, and keep the new model where its bound is still below psi."""
        for client in self.leavers:
            bounds = self.bounds.setdefault(client, [0.0])
            terms = self.terms.setdefault(client, [])
            if len(bounds) == 1:
                self._keep(client, 0, seen.sent)
            while len(bounds) < seen.round:  # Nobody answered: the model stayed.
                if self.restart[client] == len(bounds) - 1 and bounds[-1] <= self.psi:
                    self._keep(client, len(bounds), seen.sent)
                bounds.append(bounds[-1])
                terms.append(0.0)
            bound = self._next(client, seen)
            stays = bound <= self.psi and self.restart[client] == len(bounds) - 1
            bounds.append(bound)
            if stays:
                self._keep(client, len(bounds) - 1, seen.after)
        needed = set(self.restart.values())
        self.checkpoints = {t: model for t, model in self.checkpoints.items() if t in needed}

    def _next(self, client: int, seen: Observed) -> float:
        """The bound after a round; its term is kept, too."""
        terms = self.terms.setdefault(client, [])
        if self.euclidean:
            terms.append(self._term(client, seen))
            return self.contraction * self.bounds[client][-1] + terms[-1]
        before = self._by_coordinate.get(client, _zeros(seen.sent))
        shrunk = {
            name: self.contraction * value.astype(np.float64) for name, value in before.items()
        }
        found = moved(shrunk, self._terms(client, seen))
        self._by_coordinate[client] = rounded(found, seen.sent)
        terms.append(max(float(np.max(value, initial=0.0)) for value in found.values()))
        return terms[-1]

    def _term(self, client: int, seen: Observed) -> float:
        """How far the client moved the round's model."""
        if client not in seen.models:
            return 0.0
        if len(seen.models) == 1:  # Without it the model would have stayed.
            return distance(seen.after, seen.sent)
        return sensitivity(seen.after, seen.models[client], seen.share(client))

    def _terms(self, client: int, seen: Observed) -> Arrays:
        """The same for each coordinate."""
        if client not in seen.models:
            return _zeros(seen.sent)
        if len(seen.models) == 1:
            return sensitivity_by_coordinate(seen.after, seen.sent, 0.5)
        return sensitivity_by_coordinate(seen.after, seen.models[client], seen.share(client))

    def _keep(self, client: int, t: int, model: Arrays) -> None:
        self.restart[client] = t
        self.checkpoints[t] = _own(model)

    def checkpoint(self, client: int) -> Arrays | None:
        """The model to restart from when the client leaves; None where nobody ever trained."""
        return self.checkpoints.get(self.restart.get(client, 0))

    def models(self) -> int:
        """A checkpoint a leaver and, where bounds are of coordinates, the bounds."""
        return len(self.leavers) * (1 if self.euclidean else 2)

    def numbers(self, rounds: int, arrays: int) -> int:
        """Term, bound and round."""
        return len(self.leavers) * (2 * rounds + 2)

    def _kept(self) -> dict[str, Any]:
        return {
            "terms": self.terms,
            "bounds": self.bounds,
            "restart": self.restart,
            "checkpoints": self.checkpoints,
            "by_coordinate": self._by_coordinate,
        }

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.terms = self._only_leavers(kept["terms"])
        self.bounds = self._only_leavers(kept["bounds"])
        self.restart = self._only_leavers(kept["restart"])
        needed = set(self.restart.values())
        self.checkpoints = {t: m for t, m in kept["checkpoints"].items() if t in needed}
        self._by_coordinate = self._only_leavers(kept["by_coordinate"])


def _own(model: Arrays) -> Arrays:
    """A copy: what shares its memory with the run's model would be stored once, or twice, as a
    resume has it."""
    return {name: value.copy() for name, value in model.items()}


def _zeros(like: Arrays) -> Arrays:
    return {name: np.zeros_like(value) for name, value in like.items()}
