"""A wrapper: what stands around one client's method, and may change what it sees and sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from fedsim.method.client import Client, Site
from fedsim.method.exchanges import TRAIN

if TYPE_CHECKING:
    import torch

    from fedsim.tasks.task import Task


class Wrapper(Client):
    """Base of wrappers: hands every message to the wrapped client method.

    A wrapper overrides `site`, to change what the method sees (an attack on the data), or `reply`,
    to change the trained model that is sent in its place (an attack on the model). One that also
    changes answers of other kinds, such as evaluations, overrides `answer`. It has no private form
    unless it overrides `private_steps`.

    Args:
        inner: the client method; fedsim passes it. Further parameters are the scenario's.
    """

    def __init__(self, inner: Client) -> None:
        self.inner = inner

    @property
    def discloses(self) -> tuple[str, ...]:
        """What the wrapped method's replies carry."""
        return self.inner.discloses

    @property
    def method(self) -> Client:
        """The client method within, which may be wrapped several times."""
        return self.inner.method if isinstance(self.inner, Wrapper) else self.inner

    def workload(self, records: int) -> float:
        """What the wrapped method looks at."""
        return self.inner.workload(records)

    def check_fits(self, model: torch.nn.Module, task: Task, clients: Sequence[str]) -> None:
        """What the wrapped method refuses."""
        self.inner.check_fits(model, task, clients)

    def check_private(self, model: torch.nn.Module, task: Task) -> None:
        """What the wrapped method refuses: it is that which trains."""
        self.inner.check_private(model, task)

    def site(self, site: Site) -> Site:
        """The site as the wrapped method sees it; `dataclasses.replace` makes another."""
        return site

    def reply(self, content: RecordDict, site: Site, reply: RecordDict) -> RecordDict:
        """What is sent in the place of the wrapped method's reply to a message of kind "train".

        Args:
            content: the message's.
            site: as it is, not as the wrapped method sees it.
            reply: of the wrapped method.
        """
        return reply

    def answer(self, content: RecordDict, site: Site) -> RecordDict:
        """The wrapped method's answer, to a message of any kind."""
        found = self.inner.answer(content, self.site(site))
        return self.reply(content, site, found) if site.kind == TRAIN else found

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """The same, of training."""
        return self.answer(content, site)
