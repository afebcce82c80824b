"""Fed-CoT: two teachers, one that clients share and one that stays, and mixed cubes.

Zhan et al., "Fed-CoT: Co-teachers for Federated Semi-supervised MS Lesion Segmentation" (2023).
The server's half is `strategies/fed_cot.py`, the method card `docs/methods/fewlabels.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from flwr.app import RecordDict
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fedsim import InputError, Site
from fedsim.clients.few_labels import FewLabelledVolumes, keep_teacher, own_teacher
from fedsim.clients.mean_teacher import require_decay
from fedsim.losses import consistency
from fedsim.method import (
    Told,
    cube_masks,
    follow,
    load_received,
    pasted,
    proximal_term,
    teacher_of,
    update,
)
from fedsim.tasks.segmentation import outputs_of
from fedsim.wire import pack_state, tensor_record, tensors

SYNC = "teacher"
"""The record of a message with the teacher that the server averages, of parameters alone."""


@dataclass(eq=False)
class FedCoT(FewLabelledVolumes):
    """Train a student with two teachers; student and synchronous teacher travel.

    The asynchronous teacher is in the client's state. It moves towards the received student at the
    beginning of a round (E0), and both teachers follow the student after each step (E1). They see
    patches as they are, and what they say is mixed by the cubes of what the student sees (E2).

    Args:
        decay: of both teachers in each step, alpha 1 of the paper, which does not give it.
        round_decay: of the asynchronous teacher at the beginning of a round, alpha 2.
        cubes: that are pasted into each patch, from the one before it in the batch; not given in
            the paper.
        smallest, largest: side of a cube, in voxels.
    """

    payload_kind = "student and teacher"

    decay: NonNegativeFloat = 0.99
    round_decay: NonNegativeFloat = 0.9
    cubes: NonNegativeInt = 16
    smallest: PositiveInt = 8
    largest: PositiveInt = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decay(self.decay)
        require_decay(self.round_decay, "round_decay")
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest}, above largest, {self.largest}.")

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained student and its synchronous teacher.

        Raises:
            InputError: the server sent no teacher.
        """
        if SYNC not in content.array_records:
            raise InputError(
                "client fed_cot needs the server's teacher beside the student, and it sends none",
                hint="type strategy=fed_cot, or client=mean_teacher_segmentation",
            )
        model = site.new_model()
        load_received(model, content)
        shared = teacher_of(model).to(site.device)
        received = tensors(content.array_records[SYNC])
        parameters = dict(shared.named_parameters(remove_duplicate=False))
        for name, value in received.items():
            parameters[name].copy_(torch.tensor(value))
        own = own_teacher(model, site)
        follow(own, model.to(site.device), self.round_decay)
        metrics = self.learn_from(
            model, site, proximal_term(model, content), [shared, own], self.decay
        )
        keep_teacher(own, site)
        sent = tensors(pack_state(shared.state_dict()))
        teacher = tensor_record({name: sent[name] for name in received})
        return RecordDict({"arrays": update(model, content), SYNC: teacher, "metrics": metrics})

    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """The distance of what the student says of mixed patches to what teachers say (E2)."""
        sides = (self.smallest, self.largest)
        masks = cube_masks(len(images), images.shape[2:], self.cubes, sides, draws)
        masks = masks.to(images.device)
        with torch.no_grad():
            targets = [pasted(teacher(images).softmax(1), masks) for teacher in teachers]
        seen = pasted(images, masks)
        return consistency(outputs_of(model(seen))[0].softmax(1), targets), {}
