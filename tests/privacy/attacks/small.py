"""A training of milliseconds for the audit: real samples, noise keys, gradients and optimiser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fedsim.grid.worker import Job, Worker
from fedsim.method.client import Task
from fedsim.privacy import training
from fedsim.privacy.accounting import Entry, epsilon_upper
from fedsim.privacy.attacks import Subject
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan, PrivacyPlan, build_mechanism
from fedsim.privacy.releases import Releases
from fedsim.scenario import load
from fedsim.scenario.schema import Privacy

RECORDS, ROUNDS, STEPS, BATCH = 120, 3, 8, 24
DELTA = 1e-4
_IMAGES = torch.randn(RECORDS, 12, generator=torch.Generator().manual_seed(1))
_LABELS = torch.arange(RECORDS) % 3
_SCENARIO = load("isic_noniid_dpsgd")


class Small:
    """Softmax regression with DP-SGD, as a worker would have the clients do it."""

    records, rounds, steps, clients = RECORDS, ROUNDS, STEPS, 3

    def __init__(self, seed: int = 0, batch: int = BATCH, **keys: Any) -> None:
        """`keys` go into the privacy block; the rate is `batch` / `RECORDS`."""
        self.seed = seed
        self.settings = Privacy.model_validate(
            {"noise_multiplier": 2.0, "delta": DELTA, "expected_batch": batch} | keys
        )
        noise = self.settings.noise_multiplier
        assert noise is not None
        self.rate = batch / RECORDS
        self.mechanism = build_mechanism(self.settings, noise, batch)

    @property
    def subject(self) -> Subject:
        """What an audit is told of it."""
        sigma = self.mechanism.accounted_noise_multiplier
        claim = epsilon_upper([Entry(sigma, self.rate, ROUNDS * STEPS)], DELTA)
        return Subject(
            name="small",
            mechanism=self.mechanism,
            claimed_epsilon=claim.epsilon,
            delta=DELTA,
            accountant="PRV upper",
            certified=self.mechanism.certified,
            sample_rate=self.rate,
            steps=ROUNDS * STEPS,
            training=self,
        )

    def run(
        self,
        watch: Callable[[Releases], Releases],
        *,
        rounds: int | None = None,
        more: int = 0,
        fewer: int = 0,
        replaced: bool = False,
        clients: int = 1,
    ) -> list[Mapping[str, NDArray]]:
        """Train, see `Training.run`."""
        own = np.arange(RECORDS)
        if replaced:
            own[1::2] = own[::2]
        own = np.concatenate([own, own[np.arange(more) % RECORDS]])[: RECORDS + more - fewer]
        # A small client beside it costs little.
        held = [own, *(np.arange(40 + k) for k in range(clients - 1))]
        names = [f"client {k}" for k in range(clients)]
        plans = {
            name: ClientPlan(len(records), self.rate, STEPS, self.mechanism, watch)
            for name, records in zip(names, held, strict=True)
        }
        plan = PrivacyPlan(self.settings, ROUNDS, plans, self.mechanism.noise_multiplier)
        told = [str(plan), str(self.seed), str([records.tolist() for records in held])]
        noise = Noise.seeded(hashlib.sha256("|".join(told).encode()).digest())
        train = dict(zip(names, held, strict=True))
        job = Job(
            _SCENARIO,
            self.seed,
            Path(),
            cast(Task, None),
            train,
            train,
            privacy=plan,
            noise=noise,
        )
        worker = Worker(job)
        model = torch.nn.Linear(12, 3)
        start = torch.randn(39, generator=torch.Generator().manual_seed(2))
        torch.nn.utils.vector_to_parameters(start, model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        sent: list[Mapping[str, NDArray]] = []
        for worker._round in range(1, (rounds or ROUNDS) + 1):
            for client, records in enumerate(held):
                releases = worker._releases_of(client, records)
                assert releases is not None
                self._train(model, optimizer, records, watch(releases))
                releases.finish()
                sent.append({n: p.detach().numpy().copy() for n, p in model.named_parameters()})
        return sent

    def _train(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        records: np.ndarray,
        releases: Releases,
    ) -> None:
        def read(positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.from_numpy(records[positions])
            return _IMAGES[chosen], _LABELS[chosen]

        training.fit_private(
            model,
            read,
            releases,
            range(STEPS),
            optimizer,
            lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"),
            device=torch.device("cpu"),
        )
