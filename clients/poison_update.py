"""Poisoned updates: a client that sends something else than what it learned.

The plain attacks that every robust rule is tried on: sign flipping and scaling (Li et al., "RSA",
2019; Bagdasaryan et al., "How To Backdoor Federated Learning", 2020), free riding (Lin et al.,
2019) and Gaussian noise (Blanchard et al., 2017).
"""

from __future__ import annotations

from typing import Annotated, cast

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat

from fedsim import Client, Site, Wrapper
from fedsim.method import Arrays, load_received
from fedsim.wire import Codec, decode_tensors, encode_tensors, pack_state, tensor_record, tensors


class PoisonUpdate(Wrapper):
    """Send the received model, moved by `factor` times what was learned, and noise.

    Args:
        factor: -1 flips the sign, 0 sends back what came (a free rider), 10 sends ten times the
            change.
        noise: standard deviation of Gaussian noise on each parameter, in root mean squares of the
            change that was learned.
    """

    def __init__(
        self,
        inner: Client,
        factor: Annotated[float, Field(ge=-1e6, le=1e6)] = -1.0,
        noise: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(inner)
        self.factor = factor
        self.noise = noise

    def reply(self, content: RecordDict, site: Site, reply: RecordDict) -> RecordDict:
        """The reply with another model, or another encoded change, in it."""
        if "arrays" not in reply.array_records:
            raise ValueError("poison_update changes models, and the reply has none in `arrays`")
        model = site.new_model()
        load_received(model, content)
        received = tensors(pack_state(model.state_dict()))
        learned = {name for name, _ in model.named_parameters()}
        answered = tensors(reply.array_records["arrays"])
        codec = cast(Codec | None, content.config_records["config"].get("codec"))
        # With a codec the change itself is sent; buffers and what stays at the client are not.
        encoded = {
            name: value
            for name, value in answered.items()
            if name not in received or value.dtype != received[name].dtype
        }
        if codec and encoded:
            moved = encode_tensors(self._poisoned(decode_tensors(encoded), site), codec)
        else:
            names = learned & set(answered)
            change = self._poisoned({n: answered[n] - received[n] for n in names}, site)
            moved = {name: received[name] + value for name, value in change.items()}
        found = {name: moved.get(name, value) for name, value in answered.items()}
        reply["arrays"] = tensor_record(found)
        return reply

    def _poisoned(self, change: Arrays, site: Site) -> Arrays:
        draws = site.numpy_generator("poisoned update")
        total = sum(float(np.square(value, dtype=np.float64).sum()) for value in change.values())
        size = sum(value.size for value in change.values())
        scale = self.noise * np.sqrt(total / max(size, 1))

        def one(value: NDArray[np.floating]) -> NDArray[np.floating]:
            noise = scale * draws.standard_normal(value.shape) if scale else 0.0
            return np.asarray(self.factor * value + noise, dtype=value.dtype)

        return {name: one(change[name]) for name in sorted(change)}
