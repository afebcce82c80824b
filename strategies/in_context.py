"""In-context segmentation: no round of training, and no message that carries more than a command.

Butoi et al., "UniverSeg" (2023). A frozen network answers for a query slice from outlined slices of
the same site. Those are patients' images: they are never sent. The client's half is
`clients/in_context.py`, the method card `docs/methods/in_context.md`.
"""

from __future__ import annotations

from fedsim.strategies.local_only import LocalOnly


class InContext(LocalOnly):
    """Ask every client once to take its support set; each then answers for itself.

    Each client's answers are scored on the test split of all, and the run's metrics are means over
    clients; `dice@own` is that of each support set at its own site.
    """

    one_shot = True
    payload_kind = "in_context"
    made_for = "volumes"
