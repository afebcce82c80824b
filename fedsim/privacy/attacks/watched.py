"""What stands between a client method and its `Releases` while an audit watches it.

Nothing of the training is copied here: samples, noise and releases are those of the `Releases` that
the client would have had, gradients and what is made of a release are the client method's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.factored import FactoredGradients, Product
from fedsim.privacy.gradients import Gradients, Part, parts, written
from fedsim.privacy.releases import Releases

BLOCK = 4
"""Coordinates of a canary: where each is clipped by itself, more than C gets through."""

_LONG = 1e4  # A canary is longer than C: its norm is what clipping makes of it.
_ROWS = 64  # Rows of canaries at a time: with a large model they are long.


class Watched:
    """Hands on to a client's `Releases` what it does not change."""

    def __init__(self, inner: Releases) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _in_units_of_c(self, update: Tensor) -> NDArray[np.float64]:
        """A release as a sum, in units of the clipping norm."""
        mechanism = self.plan.mechanism
        sums = update.detach().double().cpu().numpy() * mechanism.expected_batch
        return np.asarray(sums / mechanism.max_grad_norm)


class Marks:
    """What a training with canaries showed.

    The client's last `count` records are canaries. One that is in (by a fair coin) has a gradient
    of its own, far longer than C, in `BLOCK` coordinates that no other record touches; one that is
    not has a gradient of zero. The client method sees neither: it samples and computes as if the
    records before were all, and its model is moved by its own coordinates.

    Attributes:
        included: bool [m], the coins.
        joined: bool [n + m] for each release, who was in its sample.
        seen: float64 [m] for each release, what it shows of every canary, in units of C.
        silence: float64 [k] for each release: coordinates that nobody touches, in units of C.
    """

    def __init__(self, included: NDArray[np.bool_], silent: int) -> None:
        self.included, self.silent = included, silent
        self.joined: list[NDArray[np.bool_]] = []
        self.seen: list[NDArray[np.float64]] = []
        self.silence: list[NDArray[np.float64]] = []

    @property
    def extra(self) -> int:
        """Coordinates beside those of the model."""
        return len(self.included) * BLOCK + self.silent

    def watch(self, releases: Releases) -> Releases:
        """Put canaries into a round."""
        return _Marked(releases, self)  # type: ignore[return-value]


class _Marked(Watched):
    def __init__(self, inner: Releases, marks: Marks) -> None:
        super().__init__(inner)
        self._marks = marks
        self._canaries = np.zeros(0, np.int64)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        positions, places = self._inner.sample()
        total, marks = self.plan.units, self._marks
        joined = np.zeros(total, bool)
        joined[positions] = True
        marks.joined.append(joined)
        first = total - len(marks.included)
        real = positions < first
        self._canaries = positions[~real] - first
        return positions[real], places[real]

    def release(self, gradients: Gradients) -> Tensor:
        marks = self._marks
        update = self._inner.release(_Both(gradients, self._canaries, marks, self.plan.mechanism))
        own = len(update) - marks.extra
        shown = self._in_units_of_c(update[own:])
        canaries = shown[: len(marks.included) * BLOCK].reshape(-1, BLOCK)
        marks.seen.append(canaries.sum(1) / BLOCK**0.5)
        marks.silence.append(shown[len(marks.included) * BLOCK :])
        return update[:own]


class _Both:
    """Parts [b, d + extra] of a sample: its records, then its canaries."""

    def __init__(
        self, gradients: Gradients, canaries: NDArray[np.int64], marks: Marks, mechanism: Any
    ) -> None:
        self._gradients, self._canaries, self._marks = gradients, canaries, marks
        self._length = _LONG * mechanism.max_grad_norm

    def __iter__(self) -> Iterator[Part]:
        part: Part
        for part in parts(self._gradients):
            yield self._beside(part)
        for start in range(0, len(self._canaries), _ROWS):
            numbers = self._canaries[start : start + _ROWS]
            lengths = self._lengths(numbers, part)
            if isinstance(part, Tensor):
                yield _rows(part, numbers, lengths, self._marks)
            else:
                yield _factors(part, numbers, lengths, self._marks)

    def _beside(self, part: Part) -> Part:
        """Some records, with nothing in the canaries' coordinates."""
        if isinstance(part, Tensor):
            return torch.nn.functional.pad(part, (0, self._marks.extra))
        nobody = torch.zeros(len(part), dtype=torch.float64, device=part.device)
        return _with_canaries(part, nobody.long(), nobody, self._marks)

    def _lengths(self, numbers: NDArray[np.int64], like: Part) -> Tensor:
        """What stands in each coordinate of a canary's, float64: 0 where it is not in."""
        included = torch.from_numpy(self._marks.included[numbers]).to(like.device)
        return included.double() * self._length


def _rows(like: Tensor, numbers: NDArray[np.int64], lengths: Tensor, marks: Marks) -> Tensor:
    """Canaries [b, d + extra], written out."""
    width = like.shape[1]
    rows = like.new_zeros(len(numbers), width + marks.extra)
    for row, number, length in zip(rows, numbers, lengths, strict=True):
        first = width + int(number) * BLOCK
        row[first : first + BLOCK] = length
    return rows


def _factors(
    like: FactoredGradients, numbers: NDArray[np.int64], lengths: Tensor, marks: Marks
) -> FactoredGradients:
    """The same as factors, so that norms and sums of factors are attacked, too."""
    count = len(numbers)

    def nothing(factor: Tensor) -> Tensor:
        return factor.new_zeros(count, 1, factor.shape[2])

    products = {
        place: [Product(nothing(some[0].left), nothing(some[0].right))]
        for place, some in like.products.items()
    }
    written = like.written.new_zeros(count, like.written.shape[1])
    empty = replace(like, written=written, products=products)
    return _with_canaries(empty, torch.from_numpy(numbers).to(like.device), lengths, marks)


def _with_canaries(
    part: FactoredGradients, numbers: Tensor, lengths: Tensor, marks: Marks
) -> FactoredGradients:
    """Factors of one more parameter, [canaries, `BLOCK`], and coordinates that nobody touches."""
    left = torch.nn.functional.one_hot(numbers, len(marks.included)).double() * lengths[:, None]
    canaries = Product(left[:, None], left.new_ones(len(part), 1, BLOCK))
    return replace(
        part,
        written=torch.nn.functional.pad(part.written, (0, marks.silent)),
        sizes=[*part.sizes, len(marks.included) * BLOCK, marks.silent],
        products={**part.products, len(part.sizes): [canaries]},
    )


class Silence:
    """What trainings of several clients release where no record has a gradient.

    Attributes:
        rows: for each release float64 [width], in units of C.
    """

    def __init__(self, width: int, kept: int) -> None:
        """Of a round the first `kept` releases are looked at."""
        self.width, self.kept = width, kept
        self.rows: list[NDArray[np.float64]] = []

    def watch(self, releases: Releases) -> Releases:
        """Take the records out of a round."""
        return _Silent(releases, self)  # type: ignore[return-value]


class _Silent(Watched):
    def __init__(self, inner: Releases, silence: Silence) -> None:
        super().__init__(inner)
        self._silence, self._sampled = silence, 0

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        _, places = self._inner.sample()
        self._sampled = int(places[-1]) + 1 if len(places) else 0
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def release(self, gradients: Gradients) -> Tensor:
        shapes = [(part.shape[1], part.device) for part in parts(gradients)]
        width, device = shapes[0]
        looked = self.made < self._silence.kept
        update = self._inner.release(torch.zeros(self._sampled, self._silence.width))
        if looked:
            self._silence.rows.append(self._in_units_of_c(update))
        return torch.zeros(width, device=device)


class Script:
    """Releases that were written before the training: what it does with them, and what it computes.

    The client method gets small samples and updates that depend on nothing. What it sends then must
    not depend on its records, and no record's gradient on another record.

    Attributes:
        gradients: for each of the first `kept` releases of a round, the rows of the records at
            even positions of the client.
    """

    def __init__(self, seed: int, records: int, kept: int) -> None:
        self._seed, self._records, self.kept = seed, records, kept
        self.gradients: list[Tensor] = []
        self._round = 0

    def watch(self, releases: Releases) -> Releases:
        """Script a round."""
        self._round += 1
        return _Scripted(releases, self, self._round)  # type: ignore[return-value]

    def sample(self, number: int, step: int) -> NDArray[np.int64]:
        """Positions of up to 6 records, half of them even ones, where there are as many."""
        draws = np.random.default_rng([self._seed, number, step])
        even, odd = np.arange(0, self._records, 2), np.arange(1, self._records, 2)
        chosen = [draws.choice(side, min(3, len(side)), replace=False) for side in (even, odd)]
        return np.sort(np.concatenate(chosen)).astype(np.int64)

    def update(self, number: int, step: int, width: int) -> Tensor:
        """An update [width] as long as a release of one record."""
        draws = torch.Generator().manual_seed(self._seed + 1_000_003 * number + step)
        return torch.randn(width, generator=draws) / max(1, width) ** 0.5


class _Scripted(Watched):
    def __init__(self, inner: Releases, script: Script, number: int) -> None:
        super().__init__(inner)
        self._script, self._number = script, number
        self._units, self._positions = 0, np.zeros(0, np.int64)
        self._width: int | None = None
        self._device = torch.device("cpu")

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        _, places = self._inner.sample()
        self._units = int(places[-1]) + 1 if len(places) else 0
        self._positions = self._script.sample(self._number, self.made)
        return self._positions, np.arange(len(self._positions))

    def release(self, gradients: Gradients) -> Tensor:
        step = self.made
        if step < self._script.kept or self._width is None:
            rows = torch.cat([written(part).detach().clone() for part in parts(gradients)])
            self._width, self._device = rows.shape[1], rows.device
            self._script.gradients.append(rows.cpu()[torch.from_numpy(self._positions % 2 == 0)])
        self._inner.release(torch.zeros(self._units, 1))
        mechanism = self.plan.mechanism
        scale = mechanism.max_grad_norm / mechanism.expected_batch
        return (self._script.update(self._number, step, self._width) * scale).to(self._device)
