"""FedMix's server: it hands on each client's averaged images, and averages models.

Yoon et al. (2021), arXiv:2107.00233. The client's half is `clients/fed_mix.py`, the method card
`docs/methods/shelf.md`.
"""

from __future__ import annotations

from typing import Literal

from fedsim.strategies.shared_once import SharedOnce
from fedsim.wire import Codec


class FedMix(SharedOnce):
    """Average the clients' models; each client mixes its images with averages of the others'.

    Args:
        codec, weighting: as of `fedavg`.
    """

    payload_kind = "fed_mix"
    made_for = "images"
    kind = "means"

    def __init__(
        self,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(codec, weighting)
