"""What a private run will release: decided before the first round, the same for all rounds.

Sampling rate, steps and noise of every client follow from the scenario and the number of units
that the client holds. So the cost of a round is known before it is run, and what a client sends
cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.privacy.accounting import (
    Bound,
    Entry,
    Unit,
    joint,
    largest_rdp,
    largest_upper,
    require_delta,
    split_noise_multiplier,
)
from fedsim.privacy.calibration import calibrate
from fedsim.privacy.mechanisms import (
    DPSGD,
    AlternatingReference,
    Dimensions,
    Mechanism,
    NoiseShare,
    PrivateReference,
)
from fedsim.privacy.paper import PaperUnsound
from fedsim.scenario.schema import Privacy


@dataclass(frozen=True)
class ClientPlan:
    """What one client releases in one round.

    Attributes:
        units: records, or patients, that it holds.
        sample_rate: probability q with which a unit joins a sample.
        steps: releases.
        mechanism: how a sample becomes a release.
        watch: what an audit makes of the round's `Releases` before the client method gets them.
    """

    units: int
    sample_rate: float
    steps: int
    mechanism: Mechanism
    watch: Callable[[Any], Any] | None = field(default=None, compare=False, repr=False)

    @property
    def entry(self) -> Entry:
        """What the accountant is told of one round."""
        return Entry(self.mechanism.accounted_noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class PrivacyPlan:
    """What a run releases.

    Attributes:
        settings: the scenario's block, with a unit.
        rounds: rounds that are planned.
        clients: client name -> what it releases in an exchange that trains, in client order.
        noise_multiplier: of the mechanism: noise on the sum over the clipping norm.
        most_records: where the unit is a record and several records are of one patient, how many
            the patient has who has most; else 1.
        trainings: exchanges in which a client trains, at most; None: one a round.
    """

    settings: Privacy
    rounds: int
    clients: dict[str, ClientPlan]
    noise_multiplier: float
    most_records: int = 1
    trainings: int | None = None

    @property
    def planned(self) -> int:
        """Exchanges in which a client trains, at most."""
        return self.rounds if self.trainings is None else self.trainings

    @property
    def unit(self) -> Unit:
        """What is protected."""
        assert self.settings.unit is not None
        return self.settings.unit

    @property
    def certified(self) -> bool:
        """Whether epsilon is proved, and not only claimed."""
        return all(plan.mechanism.certified for plan in self.clients.values())

    @property
    def shares_noise(self) -> bool:
        """Whether the noise is enough only in the sum of all clients' answers."""
        return self.settings.trust == "secure_sum"

    def epsilon(self, rounds: int | None = None) -> float | None:
        """Epsilon (RDP) if every client trained so many times, by default as often as planned."""
        return largest_rdp(self.histories(rounds), self.settings.delta)

    def bound(self, rounds: int | None = None) -> Bound:
        """The same by the best upper bound: what is claimed."""
        return largest_upper(self.histories(rounds), self.settings.delta)

    def histories(self, rounds: int | None = None) -> list[list[Entry]]:
        """What a unit pays for: each client's releases, or all where it may be at all clients.

        Args:
            rounds: exchanges in which every client trained; None: as many as planned.
        """
        count = self.planned if rounds is None else rounds
        histories = [
            [Entry(e.noise_multiplier, e.sample_rate, e.steps * count)]
            for e in (plan.entry for plan in self.clients.values())
        ]
        return [list(joint(histories))] if self.settings.shared_patients else histories


def plan_privacy(
    settings: Privacy,
    rounds: int,
    units: Mapping[str, int],
    steps_of: Callable[[int, int], int] | Mapping[str, Callable[[int, int], int]],
    *,
    full_batch: Collection[str] = (),
    together: int | None = None,
    most_records: int = 1,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> PrivacyPlan:
    """Decide sampling rates, steps and noise.

    Args:
        settings: the scenario's block; without a unit, records are meant.
        rounds: planned rounds; `target_epsilon` holds for a client that joins all of them.
        units: client name -> records, or patients, that it holds.
        steps_of: releases of one round, from units and the expected batch; of all clients, or of
            each by its name.
        full_batch: clients whose every sample is all their units, see `Client.full_batch`.
        together: patients of all clients, each counted once, where they may be at several; by
            default the sum.
        most_records: see `PrivacyPlan`.
        cache, say: see `calibrate`.

    Raises:
        InputError: delta is not below 1/n of a client, the target cannot be met, or one round
            alone would exceed `max_epsilon`.
    """
    settings = settings.model_copy(update={"unit": settings.unit or "record"})
    counts = list(units.values())
    if settings.trust == "secure_sum":
        counts = [sum(counts)]
    if settings.shared_patients:
        counts = [sum(counts) if together is None else together]
    _check_delta(settings, counts)
    batches = {
        name: count if name in full_batch else min(settings.expected_batch, count)
        for name, count in units.items()
    }
    rates = {name: batches[name] / count for name, count in units.items()}
    each = steps_of if isinstance(steps_of, Mapping) else dict.fromkeys(units, steps_of)
    steps = {name: each[name](count, settings.expected_batch) for name, count in units.items()}
    noise = settings.noise_multiplier
    if noise is None:
        noise = _noise_for_target(settings, rounds, rates, steps, cache, say)
    clients = {
        name: ClientPlan(
            count,
            rates[name],
            steps[name],
            build_mechanism(settings, noise, batches[name], parties=len(units)),
        )
        for name, count in units.items()
    }
    return _within_budget(PrivacyPlan(settings, rounds, clients, noise, most_records))


def plan_client_privacy(
    settings: Privacy,
    rounds: int,
    names: Sequence[str],
    *,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> PrivacyPlan:
    """The plan where the unit is a client: one release a round, of the mean of all updates.

    The cohort is fixed, not a Poisson sample: nothing amplifies.

    Raises:
        InputError: as for `plan_privacy`, or the block asks for what only records have.
    """
    if settings.filter is not None or settings.augmentations > 1 or settings.averaging:
        raise InputError(
            "privacy.unit=client has no filter, augmentations or averaging: the server adds the "
            "noise, to whole updates",
            hint="remove these keys, or choose unit: record",
        )
    if settings.on_budget == "drop_client":
        raise InputError(
            "privacy.on_budget=drop_client: with unit: client all clients pay alike",
            hint="type privacy.on_budget=stop",
        )
    _check_delta(settings, [len(names)])
    noise = settings.noise_multiplier
    if noise is None:
        alone = dict.fromkeys(names, 1)
        rates = dict.fromkeys(names, 1.0)
        noise = _noise_for_target(settings, rounds, rates, alone, cache, say)
    mechanism = build_mechanism(settings, noise, len(names))
    clients = {name: ClientPlan(1, 1.0, 1, mechanism) for name in names}
    return _within_budget(PrivacyPlan(settings, rounds, clients, noise))


def _check_delta(settings: Privacy, counts: Sequence[int]) -> None:
    try:
        require_delta(settings.delta, counts, settings.unit or "record")
    except ValueError as error:
        # The largest power of ten below 1/n has as many zeros as n has digits.
        hint = f"type privacy.delta=1e-{len(str(max(counts)))}"
        raise InputError(f"privacy.delta: {error}", hint=hint) from error


def _within_budget(plan: PrivacyPlan) -> PrivacyPlan:
    """The plan, if one round of it fits `max_epsilon`."""
    budget = plan.settings.max_epsilon
    if budget is None:
        return plan
    first = plan.bound(1).epsilon
    if first is None or first > budget:
        costs = "no finite epsilon" if first is None else f"epsilon {first:.3g}"
        raise InputError(
            f"privacy.max_epsilon: one round costs {costs}, more than {budget:g}",
            hint="raise privacy.max_epsilon or the noise, or take fewer steps a round",
        )
    return plan


def _noise_for_target(
    settings: Privacy,
    rounds: int,
    rates: Mapping[str, float],
    steps: Mapping[str, int],
    cache: Path | None,
    say: Callable[[str], None] | None,
) -> float:
    """The noise multiplier of the mechanism with which no client's epsilon is above the target."""
    assert settings.target_epsilon is not None
    plans = [[(rates[name], steps[name] * rounds)] for name in rates]
    if settings.shared_patients:
        plans = [[release for plan in plans for release in plan]]
    try:
        effective = calibrate(plans, settings.delta, settings.target_epsilon, cache=cache, say=say)
    except ValueError as error:
        raise InputError(f"privacy.target_epsilon: {error}") from error
    kind = settings.filter
    if kind is not None and kind.reference == "private":
        return split_noise_multiplier(effective, kind.reference_noise)[0]
    if kind is not None and kind.reference == "paper_unsound":
        return split_noise_multiplier(effective, kind.cosine_noise)[0]
    return effective


def build_mechanism(
    settings: Privacy, noise_multiplier: float, expected_batch: float, parties: int = 1
) -> Mechanism:
    """The mechanism that a `privacy:` block names, at this noise and expected batch.

    `parties` is how many clients share the noise, where they do.
    """
    kind = settings.filter
    if settings.trust == "secure_sum":
        return NoiseShare(
            noise_multiplier=noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            expected_batch=expected_batch,
            parties=parties,
        )
    if kind is None:
        return DPSGD(
            noise_multiplier=noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            expected_batch=expected_batch,
        )
    dimensions = None
    if kind.dimensions is not None:
        dimensions = Dimensions(kind.dimensions.measure, kind.dimensions.gamma)
    if kind.reference == "private":
        return PrivateReference(
            noise_multiplier=noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            expected_batch=expected_batch,
            reference_noise_multiplier=noise_multiplier * kind.reference_noise,
            psi=kind.psi,
            combine=kind.combine,
            dimensions=dimensions,
        )
    if kind.reference == "alternating":
        return AlternatingReference(
            noise_multiplier=noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            expected_batch=expected_batch,
            psi=kind.psi,
            dimensions=dimensions,
        )
    return PaperUnsound(
        noise_multiplier=noise_multiplier,
        max_grad_norm=settings.max_grad_norm,
        expected_batch=expected_batch,
        cosine_noise_multiplier=noise_multiplier * kind.cosine_noise,
        noise=kind.noise,
        psi=kind.psi,
        half_width=kind.half_width,
        dimensions=dimensions,
    )
