"""The published cosine filter, which has no guarantee: for study and for the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedsim.privacy.accounting import effective_noise_multiplier
from fedsim.privacy.gradients import Gradients, clip, parts, require_multipliers, written
from fedsim.privacy.mechanisms import Dimensions, Info, Mechanism, Released, State
from fedsim.privacy.noise import Noise, settle


@dataclass(frozen=True, kw_only=True)
class PaperUnsound(Mechanism):
    """The published cosine filter ("gradient self-alignment", Algorithm 2), for study only.

    It has no guarantee at the multiplier it claims. (1) The mean over the kept records lets one
    record move the release by C / |X|, not C / L, and under the reading with independent noise the
    noise shrinks with the number of records too. (2) The reference is the batch's own unclipped
    mean, so one record can change every cosine, where only one change was accounted for. (3) The
    coordinate mask and the number of kept records are released without noise.

    Attributes:
        cosine_noise_multiplier: tau; the cosines get noise of standard deviation tau * 2 lambda.
        noise: the paper does not say whether the noise on the gradients is `shared` (one draw for
            all records, as in DP-SGD) or `independent` (one draw a record).
        psi: keep a record where its noisy cosine is above psi.
        half_width: lambda; cosines are clipped to psi +- lambda before their noise.
        dimensions: coordinates to compare, measured over the records' noisy gradients.
    """

    cosine_noise_multiplier: float
    noise: Literal["shared", "independent"] = "shared"
    psi: float = 0.0
    half_width: float = 0.5
    dimensions: Dimensions | None = None
    certified: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_multipliers(cosine_noise_multiplier=self.cosine_noise_multiplier)
        if self.noise not in ("shared", "independent"):
            raise ValueError(f"The noise must be shared or independent, not {self.noise!r}.")
        if not self.half_width > 0:
            raise ValueError(f"The half width must be above 0, not {self.half_width}.")

    @property
    def accounted_noise_multiplier(self) -> float:
        """What the paper claims: both Gaussians on one sample, each with its printed noise."""
        return effective_noise_multiplier(self.noise_multiplier, self.cosine_noise_multiplier)

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step, see `Mechanism.aggregate`; an update of zero where none is kept."""
        raw = torch.cat([written(part) for part in parts(gradients)])
        ready = clip(raw, self.max_grad_norm)
        rows = written(ready.gradients)
        clipped = rows * ready.factors[:, None]
        shape = raw.shape if self.noise == "independent" else raw.shape[1:]
        scale = self._scale(self.noise_multiplier) / self.expected_batch
        noisy = settle(clipped + rng.gaussian(shape, scale, raw), scale, raw.dtype)
        reference = rows.sum(dim=0)
        mask = self._mask(noisy)
        compared = noisy
        if mask is not None:
            compared, reference = noisy[:, mask], reference[mask]
        lengths = compared.norm(dim=1) * reference.norm()
        cosines = compared @ reference / lengths.clamp_min(1e-30)
        low, high = max(-1.0, self.psi - self.half_width), min(1.0, self.psi + self.half_width)
        spread = self.cosine_noise_multiplier * 2 * self.half_width
        drawn = rng.gaussian(cosines.shape, spread, cosines)
        scores = settle(cosines.clamp(low, high) + drawn, spread, cosines.dtype)
        kept = scores > self.psi
        update = (kept.to(noisy.dtype) @ noisy) / max(1, int(kept.sum()))
        clipped_count = int((ready.norms > self.max_grad_norm).sum())
        nonfinite = int((~ready.finite).sum())
        return Released(update), Info(kept & ready.finite, clipped_count, nonfinite)

    def _mask(self, noisy: Tensor) -> Tensor | None:
        """The coordinates that count, measured over records: not private."""
        if self.dimensions is None or not len(noisy):
            return None
        mean, deviation = noisy.mean(dim=0), noisy.std(dim=0, correction=0)
        return self.dimensions.above_quantile(noisy.abs().mean(dim=0), deviation, mean)
