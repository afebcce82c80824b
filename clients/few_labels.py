"""What the client methods for few labels share: a loss on labelled and one on unlabelled records.

The labelled part is that of `supervised` or `segmentation`, to the bit: with `weight` 0, or without
unlabelled records, nothing else is left of these methods. The method cards are in
`docs/methods/fewlabels.md`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Client, Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import (
    Augmentation,
    Penalty,
    Told,
    UnlabelledTerm,
    added,
    endless_batches,
    follow,
    load_received,
    proximal_term,
    sigmoid_ramp_up,
    teacher_of,
    update,
)
from fedsim.tasks.segmentation import SegmentationSite, mirrored
from fedsim.wire import load_state, pack_state

TEACHER = "teacher"
"""The record of a client's state with the teacher that never leaves it."""


@dataclass(eq=False)
class FewLabels(Client):
    """Base: adds a loss on unlabelled records to that on labelled ones.

    Args:
        weight: of the loss on unlabelled records once it has grown; 0 leaves them out.
        ramp: share of the whole training in which it grows, along a sigmoid (`sigmoid_ramp_up`).
        unlabelled_batch: unlabelled records in a step; None: `batch_size`.
    """

    private = "none"
    learns_unlabelled = True
    proximal = True
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    weight: NonNegativeFloat = 1.0
    ramp: NonNegativeFloat = 0.4
    unlabelled_batch: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.ramp > 1:
            raise ValueError(f"ramp is a share of the training, at most 1, not {self.ramp}.")

    def private_steps(self, units: int, expected_batch: int) -> NoReturn:
        """Refuse: a private run trains on labelled records alone."""
        raise ValueError(f"{type(self).__name__} has no private form: it trains on two batches")

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, or their encoded update where the server names a codec."""
        model = site.new_model()
        load_received(model, content)
        metrics = self.learn(model, site, proximal_term(model, content))
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def learn(self, model: nn.Module, site: Site, penalty: Penalty | None) -> MetricRecord:
        """Train a model in place for one round, without teachers."""
        return self.learn_from(model, site, penalty, ())

    @abstractmethod
    def learn_from(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None,
        teachers: Sequence[nn.Module],
        decay: float = 0.0,
    ) -> MetricRecord:
        """Train a model in place for one round.

        Args:
            model: holds the weights that the round begins with.
            site: the client.
            penalty: added to the loss, such as `proximal_term`.
            teachers: follow the model after each step, with `decay`.

        Returns:
            `num-examples` (labelled records), and means of what is reported.
        """

    def learn_from_own_teacher(
        self, model: nn.Module, site: Site, penalty: Penalty | None, decay: float
    ) -> MetricRecord:
        """The same, with the teacher that the client keeps from round to round."""
        teacher = own_teacher(model, site)
        metrics = self.learn_from(model, site, penalty, [teacher], decay)
        keep_teacher(teacher, site)
        return metrics

    @abstractmethod
    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """What a model loses on a batch of unlabelled records.

        Args:
            model: the student, in its training mode.
            images: as the site has them, on its device.
            teachers: of this round; they predict without gradients.
            draws: on the CPU; nothing else decides.

        Returns:
            A scalar, and what to report of it.
        """

    @abstractmethod
    def batches(self, site: Site) -> Iterator[Tensor]:
        """Batches of the site's unlabelled records, for ever."""

    def term(self, site: Site, steps: int, teachers: Sequence[nn.Module]) -> UnlabelledTerm | None:
        """The loss on unlabelled records in this round; None where there is nothing to learn.

        Args:
            site: the client.
            steps: of a round.
            teachers: of this round.
        """
        if not self.weight or site.unlabelled is None or not len(site.unlabelled):
            return None
        before, growing = (site.round - 1) * steps, self.ramp * site.rounds * steps
        batches, draws = self.batches(site), site.generator("unlabelled changes")

        def loss(model: nn.Module) -> tuple[Tensor, Told]:
            return self.unlabelled_loss(model, next(batches).to(site.device), teachers, draws)

        return UnlabelledTerm(
            loss, lambda step: self.weight * sigmoid_ramp_up(before + step, growing)
        )


def require_probability(threshold: float) -> None:
    """Raise ValueError where no probability can be at least a threshold."""
    if threshold > 1:
        raise ValueError(f"threshold is a probability, at most 1, not {threshold}.")


def following(
    teachers: Sequence[nn.Module], student: nn.Module, decay: float
) -> Callable[[], None] | None:
    """What lets teachers follow a student after each step; None without teachers."""
    if not teachers:
        return None

    def after() -> None:
        for teacher in teachers:
            follow(teacher, student, decay)

    return after


def own_teacher(model: nn.Module, site: Site) -> nn.Module:
    """The teacher in the client's state or, in its first round, a copy of the received model."""
    teacher = teacher_of(model).to(site.device)
    if TEACHER in site.state.array_records:
        load_state(teacher, site.state.array_records[TEACHER])
    return teacher


def keep_teacher(teacher: nn.Module, site: Site) -> None:
    """Leave a teacher in the client's state."""
    site.state[TEACHER] = pack_state(teacher.state_dict())


@dataclass(eq=False)
class FewLabelledImages(FewLabels, Supervised):
    """Base of the methods for images (or vectors): SGD and cross-entropy, and the term.

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `Supervised`; all are of the labelled records. `epochs` are passes over
            these.
    """

    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    class_balanced: bool = True
    augment: Augmentation = "none"
    class_weights: list[PositiveFloat] | None = None

    def learn_from(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None,
        teachers: Sequence[nn.Module],
        decay: float = 0.0,
    ) -> MetricRecord:
        """Train a model in place for one round; teachers follow it after each step."""
        term = self.term(site, self._total(site), teachers)
        loss = self.fit(model, site, added(penalty, term), following(teachers, model, decay))
        told = {} if term is None else term.means()
        return MetricRecord({"num-examples": len(site.train), "loss": loss, **told})

    def batches(self, site: Site) -> Iterator[Tensor]:
        """Shuffled passes over the unlabelled records."""
        count, view = self.unlabelled_batch or self.batch_size, site.unlabelled
        draws = site.generator("unlabelled batches")
        return (view.images(chosen) for chosen in endless_batches(len(view), count, draws))


@dataclass(eq=False)
class FewLabelledVolumes(FewLabels, Segmentation):
    """Base of the methods for volumes: those of `Segmentation`, and the term.

    All parameters of `Segmentation` are of the labelled cases. Unlabelled patches lie anywhere:
    where structures are is not known. They are mirrored where labelled ones are.
    """

    def __post_init__(self) -> None:
        FewLabels.__post_init__(self)
        Segmentation.__post_init__(self)

    def learn_from(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None,
        teachers: Sequence[nn.Module],
        decay: float = 0.0,
    ) -> MetricRecord:
        """Train a model in place for one round; teachers follow it after each step."""
        term = self.term(site, self.steps, teachers)
        metrics = self.fit(model, site, added(penalty, term), following(teachers, model, decay))
        metrics.update({} if term is None else term.means())
        return metrics

    def batches(self, site: Site) -> Iterator[Tensor]:
        """Random patches of the unlabelled cases, for ever."""
        view: Any = site.unlabelled
        size = SegmentationSite.of(site).task.patch
        draws, flips = (site.generator(f"unlabelled {word}") for word in ("batches", "mirrors"))
        while True:
            images, labels = view.patches(self.unlabelled_batch or self.batch_size, size, draws)
            yield mirrored(images, labels, flips)[0] if self.mirror else images
