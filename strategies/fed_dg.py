"""The frequency exchange of FedDG: the server hands on amplitudes, and averages models.

Liu et al. (2021), arXiv:2103.06030. The client's half is `clients/fed_dg.py`, the method card
`docs/methods/shelf.md`.
"""

from __future__ import annotations

from typing import Literal

from fedsim.strategies.shared_once import SharedOnce
from fedsim.wire import Codec


class FedDG(SharedOnce):
    """Average the clients' models; each client's images take on the others' low frequencies.

    Args:
        codec, weighting: as of `fedavg`.
    """

    payload_kind = "fed_dg"
    made_for = ("images", "volumes")
    kind = "spectra"

    def __init__(
        self,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(codec, weighting)
