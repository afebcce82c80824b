"""Segmentation from partial labels: what FedAvg, FedProx and server momentum ask of a client.

The marginal loss: Shi et al., "Marginal loss and exclusion loss for partially supervised
multi-organ segmentation" (2021). The plain loss on partial labels is FedAvg* of Wang et al.,
"ConDistFL" (2023), which also keeps the optimiser from round to round and clips gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Client, InputError, Site
from fedsim.losses import (
    CrossEntropy,
    deeply_supervised,
    dice_cross_entropy,
    dice_loss,
    marginal_dice_cross_entropy,
)
from fedsim.method import (
    SGD,
    AdamW,
    Correction,
    cosine,
    load_received,
    proximal_term,
    update,
)
from fedsim.tasks.segmentation import (
    Batch,
    LabelView,
    Objective,
    SegmentationSite,
    fit,
    keep_optimiser,
    mirrored,
    outputs_of,
    restore_optimiser,
    scheduled,
)
from fedsim.unlearning import Ascent, ascend
from fedsim.wire import load_state, pack_state, tensor_record

if TYPE_CHECKING:
    from fedsim.privacy import Loss, Releases


@dataclass(eq=False)
class Segmentation(Client):
    """Train the received model on patches of the site's volumes with SGD and Dice + cross-entropy.

    The learning rate falls along half a cosine over all rounds, and the optimiser's momentum stays
    in the client's state, so that rounds are parts of one training and not many short ones.

    Args:
        loss: "marginal" takes all that the client does not label as one background, which may be
            any of it; "plain" takes it as background indeed; "dice" does so, too, and has no
            cross-entropy.
        steps: steps in a round.
        batch_size: patches in a step.
        learning_rate: in the first step.
        last_learning_rate: after the last round; the same as the first: it does not change.
        momentum: of SGD, Nesterov's.
        weight_decay: of the optimiser.
        clip: largest norm of a step's gradient; None: any.
        foreground: share of the patches that hold labelled voxels, 0 <= share <= 1.
        mirror: flip each patch along its last axis, left and right, at even chance.
        dice: "batch" takes the sums of Dice over a batch, as the papers do, "record" over each
            patch by itself.
        cross_entropy: of the marginal loss: "marginal_nll" as the paper means it, "compat" as its
            code computes it.
        optimizer: "sgd"; or "adamw", which begins anew each round and has no use for `momentum`.
    """

    payload = "arrays"
    proximal = True
    made_for = "volumes"
    keeps_state = True
    private = "dp-sgd"
    side_by_side = True

    loss: Literal["marginal", "plain", "dice"] = "marginal"
    steps: PositiveInt = 20
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 0.2
    last_learning_rate: NonNegativeFloat = 1e-7
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 1e-5
    clip: PositiveFloat | None = 1.0
    foreground: NonNegativeFloat = 2 / 3
    mirror: bool = False
    dice: Literal["batch", "record"] = "batch"
    cross_entropy: CrossEntropy = "marginal_nll"
    optimizer: Literal["sgd", "adamw"] = "sgd"

    def __post_init__(self) -> None:
        if self.foreground > 1:
            raise ValueError(f"foreground is a share, at most 1, not {self.foreground}.")

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Steps of a round, see `Client.private_steps`."""
        if self.private == "none":
            raise ValueError(f"{type(self).__name__} has no private form")
        from fedsim.privacy import require_private_too

        own = ("fit", "objective", "supervised")
        require_private_too(self, Segmentation, own, ("_fit_private", "_losses"))
        if self.dice == "batch":
            raise ValueError(
                "dice: batch makes the loss of each record depend on all others: set it to record"
            )
        return self.steps

    def check_private(self, model: nn.Module, task: Any) -> None:
        """Refuse a model that couples records, see `Client.check_private`."""
        from fedsim.privacy import require_uncoupled

        draws = torch.Generator().manual_seed(0)
        images = torch.randn((4, task.in_channels, *task.patch), generator=draws)
        labels = torch.randint(task.num_classes, (4, *task.patch), generator=draws)
        view = next(iter(task.scheme.views.values()))
        require_uncoupled(model, self._losses(view), images, labels)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, or their encoded update where the server names a codec."""
        return self.train_corrected(content, site)

    def train_corrected(
        self, content: RecordDict, site: Site, correct: Correction | None = None
    ) -> RecordDict:
        """What `train` answers, with each step's gradients corrected; private runs have no such."""
        model = site.new_model()
        load_received(model, content)
        metrics = self.fit(model, site, proximal_term(model, content), correct=correct)
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def fit(
        self,
        model: nn.Module,
        site: Site,
        penalty: Callable[[nn.Module], Tensor] | None = None,
        after: Callable[[], None] | None = None,
        correct: Correction | None = None,
    ) -> MetricRecord:
        """Train a model in place for one round; in a private run by the site's releases.

        Args:
            model: holds the weights that the round begins with.
            site: the client.
            penalty: added to the loss, see `fedsim.method.updates.proximal_term`.
            after: called after each step of a run without privacy.
            correct: changes the gradients before such a step.

        Returns:
            `num-examples` (cases) and `num-steps`; unless the run is private also the means of
            `loss` and of what else the objective reports.
        """
        here = SegmentationSite.of(site)
        model.to(site.device)
        optimizer = self._optimizer(model, site)
        before, total = (site.round - 1) * self.steps, site.rounds * self.steps
        steps = scheduled(
            site.steps(self.steps, "train"),
            optimizer,
            lambda step: cosine(before + step, total, self.learning_rate, self.last_learning_rate),
        )
        means: Mapping[str, float] = {"num-steps": float(self.steps)}
        if site.releases is None:
            means = fit(
                model,
                self._batches(here, site),
                steps,
                optimizer,
                self.objective(model, site),
                device=site.device,
                clip=self.clip,
                penalty=penalty,
                after=after,
                correct=correct,
            )
        else:  # The loss is one over real records, too: it stays here.
            self._fit_private(model, here, site, site.releases, steps, optimizer, penalty)
        if self.optimizer == "sgd":
            keep_optimiser(optimizer, model, site.state)
        return MetricRecord({"num-examples": len(here.train), **means})

    def _optimizer(self, model: nn.Module, site: Site) -> torch.optim.Optimizer:
        """The optimiser of a round; SGD with the momentum that the round before left."""
        if self.optimizer == "adamw":
            decay = self.weight_decay
            return AdamW(model.parameters(), lr=self.learning_rate, weight_decay=decay)
        optimizer = SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
            fused=(site.fast and site.releases is None) or None,
        )
        restore_optimiser(optimizer, model, site.state)
        return optimizer

    def ascend(self, content: RecordDict, site: Site) -> RecordDict:
        """Maximise the loss on the site's volumes in a ball, see `fedsim.unlearning.ascent`."""
        here, model, asked = SegmentationSite.of(site), site.new_model(), Ascent.of(content)
        load_received(model, content)

        def measured(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, float]:
            outputs = outputs_of(model(images))
            found = outputs[0].argmax(dim=1)
            both = ((found == labels) & (labels > 0)).sum()
            sizes = (found > 0).sum() + (labels > 0).sum()
            overlap = float(2 * both / sizes) if sizes else 1.0
            return self.supervised(outputs, labels, here.labels), overlap

        if self.optimizer == "adamw":
            optimizer: torch.optim.Optimizer = self._optimizer(model, site)
        else:  # What it kept of descents would carry it down again.
            optimizer = SGD(model.parameters(), lr=self.learning_rate)
        found = ascend(
            model,
            self._batches(here, site),
            site.steps(asked.steps, "ascend"),
            optimizer,
            measured,
            asked,
            site.device,
        )
        metrics = MetricRecord({"num-examples": len(here.train), **found})
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def validate(self, content: RecordDict, site: Site) -> RecordDict:
        """The gradient of the loss on patches of the site's validation cases, by `auto_fedavg`.

        It is the mean over as many batches as a round of training has, of a model in evaluation
        mode. `num-examples` is the number of validation cases.

        Raises:
            InputError: the site has none.
            ValueError: the run is private.
        """
        here, model = SegmentationSite.of(site), site.new_model()
        if site.releases is not None:
            raise ValueError("a gradient on validation cases has no private form")
        if not len(here.val):
            raise InputError(
                f"{site.name!r} has no validation cases, and strategy 'auto_fedavg' weights "
                "clients by theirs",
                hint="raise data.split.val, or type strategy=fedavg",
            )
        load_received(model, content)
        model.to(site.device).eval()
        generator, total = site.generator("validation"), 0.0
        for _ in site.steps(self.steps, "validate"):
            images, labels = (
                part.to(site.device)
                for part in here.val.patches(
                    self.batch_size, here.task.patch, generator, self.foreground
                )
            )
            loss = self.supervised(outputs_of(model(images)), labels, here.labels) / self.steps
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        gradient = {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in model.named_parameters()
        }
        metrics = MetricRecord({"num-examples": len(here.val), "loss": total})
        return RecordDict({"gradient": tensor_record(gradient), "metrics": metrics})

    def _batches(self, here: SegmentationSite, site: Site) -> Iterator[Batch]:
        """Random patches, for ever."""
        generator, flips = site.generator("batches"), site.generator("augment")
        while True:
            batch = here.train.patches(self.batch_size, here.task.patch, generator, self.foreground)
            yield mirrored(*batch, flips) if self.mirror else batch

    def _fit_private(
        self,
        model: nn.Module,
        here: SegmentationSite,
        site: Site,
        releases: Releases,
        steps: Iterable[int],
        optimizer: torch.optim.Optimizer,
        penalty: Callable[[nn.Module], Tensor] | None,
    ) -> None:
        """Train with DP-SGD; a record is a case, which gives one patch to each sample it joins."""
        from fedsim.privacy import fit_private

        generator, flips = site.generator("batches"), site.generator("augment")
        size = here.task.patch

        def read(positions: np.ndarray) -> Batch:
            # One by one: whether a patch holds labelled voxels must not depend on other cases.
            images = torch.zeros(len(positions), here.task.in_channels, *size)
            labels = torch.zeros(len(positions), *size, dtype=torch.int64)
            for number, case in enumerate(positions):
                patch = here.train.patches(1, size, generator, self.foreground, case=int(case))
                images[number], labels[number] = (part[0] for part in patch)
            return mirrored(images, labels, flips) if self.mirror else (images, labels)

        fit_private(
            model,
            read,
            releases,
            steps,
            optimizer,
            self._losses(here.labels),
            device=site.device,
            penalty=penalty,
        )

    def _losses(self, view: LabelView) -> Loss:
        """One loss a record."""

        def losses(result: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
            return self.supervised(outputs_of(result), labels, view, each=True)

        return losses

    def objective(self, model: nn.Module, site: Site) -> Objective:
        """What this client minimises in this round; `model` has the weights it received."""
        labels_here = SegmentationSite.of(site).labels

        def supervised(
            images: Tensor, outputs: Sequence[Tensor], labels: Tensor
        ) -> Mapping[str, Tensor]:
            return {"loss": self.supervised(outputs, labels, labels_here)}

        return supervised

    def supervised(
        self, outputs: Sequence[Tensor], labels: Tensor, here: LabelView, each: bool = False
    ) -> Tensor:
        """The loss of a model's outputs against the client's labels; `each`: of every record."""
        if self.loss == "plain":
            loss = partial(dice_cross_entropy, batch=self.dice == "batch", each=each)
        elif self.loss == "dice":
            loss = partial(dice_loss, batch=self.dice == "batch", each=each)
        else:
            loss = partial(
                marginal_dice_cross_entropy,
                foreground=here.foreground,
                batch=self.dice == "batch",
                cross_entropy=self.cross_entropy,
                each=each,
            )
        return deeply_supervised(lambda logits: loss(logits, labels), outputs)


class LocalSegmentation(Segmentation):
    """Train the client's own model further, and keep it in the client's state.

    All clients start from the same weights, those of the server's first model.
    """

    payload = "nothing"
    proximal = False
    payload_kind = "own_model"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, and report the loss alone."""
        model = site.new_model()
        load_state(model, self._own(site)["arrays"])
        metrics = self.fit(model, site)
        site.state["arrays"] = pack_state(model.state_dict())
        return RecordDict({"metrics": metrics})

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Dice of the client's own model on the site's validation cases."""
        return super().evaluate(RecordDict(self._own(site)), site)

    def _own(self, site: Site) -> dict:
        return {"arrays": site.state.array_records.get("arrays") or site.first_arrays()}
