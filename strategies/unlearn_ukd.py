"""UKD: take off all that the client contributed, and repair the model by distillation.

Wu, Zhu and Mitra, "Federated Unlearning with Knowledge Distillation" (2022). Method card:
`docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from fedsim.method import Adam, Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import Contributions, Memory, moved
from fedsim.wire import Codec, load_state, pack_state, tensor_record, tensors


class UKD(Unlearning):
    """Subtract the sum of the client's weighted updates; then the trained model teaches the rest.

    The server has no records. It distils on Gaussian noise of the shape of a record: a control, and
    not the unlabelled set that the paper takes for granted and does not name.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
        form: "wu2022" subtracts updates; "paper_code" subtracts models and distils nothing, as the
            prostate paper's code does by mistake: for study.
        steps: of distillation; 0: none.
        batch_size: noise images in a step.
        temperature: of both softmaxes.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        form: Literal["wu2022", "paper_code"] = "wu2022",
        steps: NonNegativeInt = 100,
        batch_size: PositiveInt = 16,
        temperature: PositiveFloat = 3.0,
        learning_rate: PositiveFloat = 1e-3,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(train_rounds, client, codec, weighting)
        self.form = form
        self.steps = steps
        self.batch_size = batch_size
        self.temperature = temperature
        self.learning_rate = learning_rate

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The sums of what clients contributed."""
        of: Literal["updates", "models"] = "updates" if self.form == "wu2022" else "models"
        return [Contributions(leavers, clients, of)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The model without the contributions, distilled."""
        kept, leaver = self.memory(Contributions).sums, self.leaver
        assert leaver is not None
        left = moved(arrays, kept[leaver], -1) if leaver in kept else arrays
        return (
            left if self.form == "paper_code" or not self.steps else self._distilled(arrays, left)
        )

    def _distilled(self, teacher: Arrays, student: Arrays) -> Arrays:
        """The student after learning the teacher's soft outputs on noise."""
        device, shape = self.server.device, self.server.task.input_shape
        taught, learns = self._model(teacher, teacher), self._model(student, teacher)
        optimizer = Adam(
            [one for one in learns.parameters() if one.requires_grad], lr=self.learning_rate
        )
        draws = self.server.generator("distillation")
        for _ in self.server.steps(self.steps, "distil"):
            images = torch.randn((self.batch_size, *shape), generator=draws).to(device)
            with torch.no_grad():
                wanted = F.softmax(taught(images) / self.temperature, dim=1)
            found = F.log_softmax(learns(images) / self.temperature, dim=1)
            # F.kl_div means over all elements: of the classes the sum is wanted.
            loss = F.kl_div(found, wanted, reduction="none").sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        packed = tensors(pack_state(learns.cpu().state_dict()))
        return {name: packed[name] for name in teacher}

    def _model(self, arrays: Arrays, like: Arrays) -> torch.nn.Module:
        """A model with these arrays, in evaluation mode: nothing is dropped, outputs are one."""
        model = self.server.new_model()
        named = {name: value.astype(like[name].dtype) for name, value in arrays.items()}
        load_state(model, tensor_record(tensors(pack_state(model.state_dict())) | named))
        return model.to(self.server.device).eval()

    def details(self) -> dict[str, Any]:
        """What it was distilled on."""
        distilled = self.form == "wu2022" and self.steps > 0
        return {"distilled_on": "Gaussian noise" if distilled else None}
