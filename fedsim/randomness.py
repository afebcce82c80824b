"""Randomness is an argument: every stream comes from (seed, purpose, round, client, exchange).

Streams are independent of each other and of the order in which they are asked for, so a run gives
the same bits sequentially, in parallel, and after a resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SERVER = -1
"""The client number that stands for the server."""


@dataclass(frozen=True)
class Streams:
    """The random streams of one run.

    `seed` is the scenario's seed (a non-negative integer). `purpose` is a short word that says
    what the numbers are for ("partition", "batches"); two purposes do not share numbers. `exchange`
    counts the exchanges of a round from 0.
    """

    seed: int

    def sequence(
        self, purpose: str, round: int = 0, client: int = SERVER, exchange: int = 0
    ) -> np.random.SeedSequence:
        """The seed sequence of one stream."""
        word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
        # The first exchange has no number: rounds of one exchange keep their bits.
        further = [exchange] if exchange else []
        return np.random.SeedSequence([self.seed, word, round, client + 1, *further])

    def numpy(
        self, purpose: str, round: int = 0, client: int = SERVER, exchange: int = 0
    ) -> np.random.Generator:
        """A NumPy generator for one stream."""
        return np.random.default_rng(self.sequence(purpose, round, client, exchange))

    def torch(
        self, purpose: str, round: int = 0, client: int = SERVER, exchange: int = 0
    ) -> torch.Generator:
        """A CPU `torch.Generator` for one stream: draw on the CPU, then move."""
        import torch

        seed = as_int(self.sequence(purpose, round, client, exchange))
        return torch.Generator().manual_seed(seed)


def as_int(sequence: np.random.SeedSequence) -> int:
    """A 63-bit integer seed drawn from a seed sequence."""
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def isolated(sequence: np.random.SeedSequence) -> Iterator[None]:
    """Seed the global generators of `random`, NumPy and torch inside, restore them afterwards.

    For code that draws from global state: `torch.nn` initialisation, dropout, and strategies of
    other libraries (Flower samples clients from `random`).
    """
    import torch

    seed = as_int(sequence)
    with kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # Where no accelerator is in use, `torch.manual_seed` notes down the call for each, with a
        # traceback that is never dropped.
        if torch.cuda.is_initialized() or torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Give the global generators of `random`, NumPy and torch their states back afterwards."""
    import torch

    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])
