"""A scenario as a Flower app: the same rounds over real nodes, each with its own records.

`fedsim export NAME DIR` writes the app; its two modules call `server_app` and `client_app`, and
hold nothing else. `flwr run` runs it, in Flower's simulation or as a federation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

__all__ = ["client_app", "server_app"]


def server_app(folder: str | Path) -> ServerApp:
    """The server's half of an exported app.

    Args:
        folder: of the app's package, with `scenario.yaml` and `deployment.yaml`.
    """
    from fedsim.deployment.server import make_server_app

    return make_server_app(Path(folder))


def client_app(folder: str | Path) -> ClientApp:
    """The nodes' half of an exported app; see `server_app`."""
    from fedsim.deployment.node import NodeApp

    return NodeApp(Path(folder))
