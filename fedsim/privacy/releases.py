"""The client's half of a private run: sampling, releasing, and counting the releases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.gradients import Gradients, Part
from fedsim.privacy.mechanisms import State
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan
from fedsim.scenario.schema import Privacy


class Releases:
    """What a client may do with its records in one round, if the run is private.

    All that a private client method learns from its records goes through `sample` and `release`,
    by turns, as often as the plan says. A call out of turn raises RuntimeError, and so does all
    that comes after it: a round in which a method broke the rule has no result.

    Attributes:
        settings: the scenario's `privacy:` block.
        plan: what the client releases in this round.
        made: releases so far.
        closed: the round is over; who runs the method sets it.
    """

    def __init__(
        self,
        settings: Privacy,
        plan: ClientPlan,
        units: np.ndarray,
        noise: Noise,
        method: str = "the client method",
    ) -> None:
        """Open a round.

        Args:
            settings, plan: see the attributes.
            units: the unit of each record [n], numbered from 0.
            noise: of this client and round.
            method: who samples and releases, for messages.
        """
        self.settings, self.plan = settings, plan
        self.made, self.closed = 0, False
        order = np.argsort(units, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(units, minlength=plan.units))[:-1])
        self._noise, self._method = noise, method
        self._state = State()
        self._sampled: int | None = None  # units of the sample that waits for its release
        self._row: tuple[torch.dtype, int] | None = None  # what each release has been made of
        self._fault = ""

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw a Poisson sample: every unit joins with probability q, whatever the others do.

        Returns:
            Positions of the records [B], int64, ordered by unit, and the place [B] of each one's
            unit in the sample, 0 <= place < number of sampled units. Both may be empty.

        Raises:
            RuntimeError: the last sample has not been released, or the plan has no more.
        """
        self._require_turn("sample")
        if self._sampled is not None:
            raise self._refuse("drew a second sample before it released the first")
        draws = self._noise.for_sample(self.made).uniform(self.plan.units)
        chosen = np.flatnonzero(draws < self.plan.sample_rate)
        self._sampled = len(chosen)
        if not len(chosen):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        members = [self._members[unit] for unit in chosen]
        places = np.repeat(np.arange(len(chosen)), [len(m) for m in members])
        return np.concatenate(members).astype(np.int64), places.astype(np.int64)

    def release(self, gradients: Gradients) -> Tensor:
        """Make one release out of a sample's contributions; the only way out of the site.

        Args:
            gradients: [units of the sample, d], float32 or float64, or parts of it, see
                `Mechanism.aggregate`; d and dtype are the same in every release.

        Returns:
            [d], the noisy sum over the expected batch.

        Raises:
            RuntimeError: there is no sample, the plan has no more releases, or the contributions
                are not one row for each unit of the sample.
        """
        self._require_turn("release")
        if self._sampled is None:
            raise self._refuse("made a release without a sample: each needs one of its own")
        rows, mechanism = _Rows(gradients, self._sampled, self._row), self.plan.mechanism
        # Counted before it is made: whatever happens on the way, its noise is used up.
        noise = self._noise.for_release(self.made)
        self._sampled, self.made = None, self.made + 1
        try:
            released, _ = mechanism.aggregate(rows, self._state, noise)
        except _NotItsRowsError as error:
            raise self._refuse(str(error)) from None
        self._state, self._row = mechanism.remember(self._state, released), rows.row
        return released.update

    def finish(self, complete: bool = True) -> None:
        """Look back at the round.

        Args:
            complete: whether all that was planned must have been done.

        Raises:
            RuntimeError: the method broke the rule, or made fewer releases than planned.
        """
        if self._fault:
            raise RuntimeError(self._fault)
        if self._sampled is not None:
            raise self._refuse("drew a sample that it did not release")
        if complete and self.made != self.plan.steps:
            raise self._refuse(
                f"made {self.made} releases in a round in which it was charged for "
                f"{self.plan.steps}: `private_steps` and `train` disagree"
            )

    def _require_turn(self, what: str) -> None:
        if self._fault:
            raise RuntimeError(self._fault)
        if self.closed:
            raise self._refuse("used site.releases after its round was over")
        if self.made >= self.plan.steps:
            raise self._refuse(
                f"asked for one more {what}: the plan allows {self.plan.steps} in a round"
            )

    def _refuse(self, what: str) -> RuntimeError:
        self._fault = self._fault or f"{self._method} {what}"
        return RuntimeError(self._fault)


class _NotItsRowsError(Exception):
    """Contributions are not those of the sample."""


class _Rows:
    """The contributions of a sample, checked as often as a mechanism reads them.

    Attributes:
        row: dtype and width of a row; None before it is known.
    """

    def __init__(
        self, gradients: Gradients, units: int, row: tuple[torch.dtype, int] | None
    ) -> None:
        self._gradients = (gradients,) if isinstance(gradients, Part) else gradients
        self._units, self.row = units, row
        self._sizes: list[int] | None = None

    def __iter__(self) -> Iterator[Part]:
        if isinstance(self._gradients, Iterator) or not isinstance(self._gradients, Iterable):
            raise _NotItsRowsError("released what cannot be read twice: a list of parts can")
        sizes: list[int] = []
        for part in self._gradients:
            self._check(part)
            sizes.append(len(part))
            if sum(sizes) > self._units:
                break
            yield part
        if not sizes:
            raise _NotItsRowsError("released no part: an empty sample is one part [0, d]")
        if sum(sizes) != self._units:
            more = "or more " if sum(sizes) > self._units else ""
            raise _NotItsRowsError(
                f"released {sum(sizes)} {more}rows out of a sample of {self._units} units: a unit "
                "contributes one row"
            )
        if self._sizes not in (None, sizes):
            raise _NotItsRowsError(
                "released parts of other sizes when they were read again: all passes read the same"
            )
        self._sizes = sizes

    def _check(self, part: object) -> None:
        if not isinstance(part, Part):
            raise _NotItsRowsError(f"released a {type(part).__name__}, and not a torch.Tensor")
        if len(part.shape) != 2 or part.dtype not in (torch.float32, torch.float64):
            raise _NotItsRowsError(
                f"released {part.dtype} {list(part.shape)}, and not float32 or float64 [units, d]"
            )
        row = part.dtype, part.shape[1]
        if self.row not in (None, row):
            assert self.row is not None
            raise _NotItsRowsError(
                f"released rows of {row[1]} {row[0]} after rows of {self.row[1]} {self.row[0]}"
            )
        self.row = row
