"""A wrapper: what stands around one client's method, and may change what it sees and sends."""

from __future__ import annotations

from flwr.app import RecordDict

from fedsim.method.client import Client, Site


class Wrapper(Client):
    """Base of wrappers: hands every message to the wrapped client method.

    A wrapper overrides `site`, to change what the method sees (an attack on the data), or `reply`,
    to change what is sent in its place (an attack on the model). It has no private form unless it
    overrides `private_steps`.

    Args:
        inner: the client method; fedsim passes it. Further parameters are the scenario's.
    """

    def __init__(self, inner: Client) -> None:
        self.inner = inner

    @property
    def discloses(self) -> tuple[str, ...]:
        """What the wrapped method's replies carry."""
        return self.inner.discloses

    def site(self, site: Site) -> Site:
        """The site as the wrapped method sees it; `dataclasses.replace` makes another."""
        return site

    def reply(self, content: RecordDict, site: Site, reply: RecordDict) -> RecordDict:
        """What is sent in the place of the wrapped method's reply to `content`."""
        return reply

    def answer(self, content: RecordDict, site: Site) -> RecordDict:
        """The wrapped method's answer, to a message of any kind."""
        return self.reply(content, site, self.inner.answer(content, self.site(site)))

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """The same, of training."""
        return self.answer(content, site)
