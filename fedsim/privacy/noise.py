"""Noise: its key, its stream, and how it meets a sum without showing what lies under it.

A `Noise` is a 256-bit key and the stream that AES in counter mode makes of it. Keys of parts (a
round, a client, a release) are derived from it, so no two releases share a stream, and none
depends on the order in which others are asked for. What the key of a run comes from is the
scenario's choice: `seeded` from all that a release depends on, so that the same run gives the same
bits; `secret` from the operating system, too, so that nobody can take the noise off again.

A normal draw in floating point lies on a grid, and the gaps of the grid show what was added to it
(Mironov, "On significance of the least significant bits for differential privacy", 2012). So every
value is the sum of four draws in float64 (Holohan & Braghin, "Secure random sampling in
differential privacy", 2021), is added to the sum in float64, and is rounded to a grid that the
scale alone decides, before anything else is done with it: see `settle`.
"""

from __future__ import annotations

import hmac
import json
import math
from typing import Any, Literal

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["seeded", "secret"]

KEY_BYTES = 32

BLOCK = 2**15
"""Values that are drawn at a time. Drawing a multiple of it and then more draws the same."""

_SUMMED = 4  # draws to a value
_SMALLEST = 256  # one draw costs as much
_WORD = 2**53  # what float64 tells apart between 1/2 and 1
_GRID_BITS = 32
_ZEROS = bytes(8 * _SUMMED * BLOCK)  # what the cipher makes words of


class Noise:
    """A stream of noise, and the way to the streams of its parts.

    Draws go on where the last one ended. `derive` is independent of them.

    Attributes:
        kind: "seeded" or "secret".
    """

    def __init__(self, key: bytes, kind: Kind) -> None:
        self.kind = kind
        self._key = key
        self._stream: Any = None
        self._spare = torch.zeros(0, dtype=torch.float64)
        self._work = torch.zeros(0, 0, dtype=torch.float64)  # memory of `_normal`
        self._buffer = bytearray()  # memory of `_words`

    @classmethod
    def seeded(cls, digest: bytes) -> Noise:
        """Noise for simulation: whoever knows what the digest is of can remove it."""
        return cls(_mac(b"fedsim seeded noise", digest), "seeded")

    @classmethod
    def secret(cls, key: bytes, digest: bytes) -> Noise:
        """Noise that nobody can remove without the key of `KEY_BYTES`, which is used up by one run.

        Raises:
            ValueError: the key has another length.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"A key of noise has {KEY_BYTES} bytes, not {len(key)}.")
        return cls(_mac(key, b"fedsim secret noise" + digest), "secret")

    def derive(self, *labels: str | int) -> Noise:
        """The noise of a part: other labels, another stream."""
        return Noise(_mac(self._key, b"part" + json.dumps(labels).encode()), self.kind)

    def for_sample(self, number: int) -> Noise:
        """The source of the Poisson sample before release `number`, from 0."""
        return self.derive("sample", number)

    def for_release(self, number: int) -> Noise:
        """The noise of release `number`, from 0."""
        return self.derive("release", number)

    def number(self) -> int:
        """256 bits to seed other generators of this part with; they do not lead back to its key."""
        return int.from_bytes(_mac(self._key, b"number"), "big")

    def gaussian(self, shape: torch.Size | tuple[int, ...], scale: float, like: Tensor) -> Tensor:
        """Normal noise of standard deviation `scale`, float64, on the device of `like`.

        Drawn on the CPU, so that every device adds the same noise. Scale 0 draws nothing.
        """
        out = torch.empty(shape, dtype=torch.float64) if scale else torch.zeros(shape).double()
        flat, start = out.view(-1), 0
        while scale and start < len(flat):
            if not len(self._spare):
                self._spare = self._normal(len(flat) - start)
            part, self._spare = self._spare.tensor_split([len(flat) - start])
            torch.mul(part, scale, out=flat[start : start + len(part)])
            start += len(part)
        return out.to(like.device)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform numbers [count] in [0, 1), multiples of 2^-53."""
        return self._uniform(torch.empty(count, dtype=torch.float64)).numpy()

    def _normal(self, wanted: int) -> Tensor:
        """Standard normal numbers, at most `BLOCK`: of each pair of Box and Muller, both."""
        half = -(-min(max(wanted, _SMALLEST), BLOCK) // 2)
        if self._work.shape[1] != half:
            self._work = torch.empty(3 * _SUMMED + 2, half, dtype=torch.float64)
        lengths, angles, turned, result = self._work.split([_SUMMED, _SUMMED, _SUMMED, 2])
        self._uniform(self._work[: 2 * _SUMMED].view(-1))
        lengths.neg_().log1p_().mul_(-2).sqrt_()
        angles.mul_(2 * math.pi)
        for turn, both in zip((torch.cos, torch.sin), result, strict=True):
            torch.sum(turn(angles, out=turned).mul_(lengths), 0, out=both)
        return result.view(-1).div_(math.sqrt(_SUMMED))

    def _uniform(self, out: Tensor) -> Tensor:
        """Fill `out` [count]."""
        words = np.frombuffer(self._words(len(out)), np.int64, len(out))
        np.bitwise_and(words, _WORD - 1, out=words)
        return out.copy_(torch.from_numpy(words)).mul_(1 / _WORD)

    def _words(self, count: int) -> bytearray:
        """The next `count` words of 64 bits, until the next call, and bytes of no meaning."""
        if self._stream is None:
            # No nonce is used twice: a key has one stream.
            cipher = Cipher(algorithms.AES(_mac(self._key, b"stream")), modes.CTR(bytes(16)))
            self._stream = cipher.encryptor()
        size = 8 * count
        if len(self._buffer) != size + 15:  # as the cipher wants it: a block more but one byte
            self._buffer = bytearray(size + 15)
        zeros = memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else bytes(size)
        self._stream.update_into(zeros, self._buffer)
        return self._buffer

    def __repr__(self) -> str:
        return f"Noise({self.kind})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process begins at the stream's beginning."""
        return Noise, (self._key, self.kind)


def settle(exact: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """A noisy sum as it may be released, in `dtype`.

    A float64 sum of noise and signal keeps low bits that tell how large its two parts were: near
    zero, where they cancel, it has more digits than either. So it is first rounded to a multiple of
    the power of two that lies 32 bits below the noise. What comes after is post-processing.

    Args:
        exact: float64, signal plus noise.
        scale: standard deviation of the noise; 0: nothing is hidden, and nothing rounded here.
        dtype: of the result.
    """
    if scale:
        step = 2.0 ** max(math.frexp(scale)[1] - _GRID_BITS, -1000)
        exact = (exact / step).round_().mul_(step)
    return exact.to(dtype)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
