"""Distil a site's images into a few synthetic ones, sent once: the client's half of GDD.

Four methods by what they match, under freshly drawn networks (`fedsim.distillation.Matching`): mean
embeddings of real and synthetic images (DM), these and a second time with the channel statistics of
the real images perturbed (GDD), the gradients that they give a classifier (DC), and the same of
images that are augmented alike (DSA). GDD and DM also match under networks that were trained on the
site's images, and may label views of the result with them. Method card: `docs/methods/gdd.md`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fedsim import Client, Site
from fedsim.distillation import (
    MATCHINGS,
    Layers,
    Matching,
    Means,
    State,
    draw_records,
    label_views,
    match_privately,
    picture_range,
    redraw,
    train_with_snapshots,
)
from fedsim.method import SGD, Adam, Augmentation, augmentation, keep_memory
from fedsim.models import ConvNet
from fedsim.wire import Codec, clipped_fraction, decode_images, encode_images, tensor_record

if TYPE_CHECKING:
    from fedsim.privacy import Releases

# Parameters that are not always looked at, and with which value of which other one they are. Those
# of a matching come to it.
_USED_WITH = {
    "image_momentum": ("image_optimizer", ("sgd",)),
    "encoder": ("matching", tuple(n for n, kind in MATCHINGS.items() if issubclass(kind, Means))),
    "encoder_steps": ("encoder", ("trained",)),
    "view_labels": ("encoder", ("trained",)),
}

_ADAM_FINAL_RATE = 0.1  # Share of the images' learning rate that is left after all iterations.


class Distill(Client):
    """Learn `images_per_class` images of each class that the site has.

    A class that the site does not have is not sent: there is nothing to learn it from.

    Args:
        matching: "gdd" matches the mean embeddings of plain and of perturbed real images; "dm" of
            the plain ones only; "dc" the gradients of a classifier; "dsa" these with augmentation.
            GDD's loss has two terms: with `perturb_probability: 0` it is DM at twice the image
            learning rate.
        images_per_class: synthetic images of each class.
        iterations: networks that are drawn, one after another. The images make a step under each,
            with DC and DSA `outer_loops` steps.
        image_optimizer: "sgd" at a constant rate, or "adam" with one that falls to a tenth along a
            cosine; the size of its steps does not depend on that of the gradient.
        image_learning_rate: of the images. The papers use 1 for GDD and DM, 0.1 for DC and DSA,
            all with SGD; with Adam start from 0.1. The gradient of mean matching falls as one over
            `images_per_class`: with SGD, state the two together.
        image_momentum: of SGD.
        batch_size: real images of each class in a step (fewer if the site has fewer).
        init: "noise" starts the synthetic images from a standard normal distribution; "real" from
            real images of the class, drawn at random, which then travel, changed by the
            distillation.
        clamp: keep the images, their start included, within what an 8-bit picture can hold.
        augment: "siamese" changes real and synthetic images alike, one operation for each class
            and step; "none" does not; null is what the matching asks for: "none" for DC, else
            "siamese".
        layers: match embeddings after the "last" block of the ConvNet or after "all" of them, each
            at the scale of the last (GDD and DM).
        perturb: where the statistics are perturbed: those of the "image", as the paper's formula,
            or of each "feature" map between convolution and normalisation, as public code of its
            first author (GDD).
        perturb_probability: that a class's real images are perturbed in an iteration, 0 to 1 (GDD).
        encoder: networks of mean matching: "random" draws a fresh one in each iteration; "trained"
            first trains one on the site's images and then draws one of its stages (GDD and DM).
        encoder_steps: of that training, on balanced batches of 64 (with `encoder: trained`).
        view_labels: so many random views of the images, as the server will decode them, travel as
            the trained network's probabilities for them, standardised; the server draws the same
            views and trains on these in place of the labels. A site with one class sends none.
        embedding_pool: in a private run, embeddings are averaged to maps of so many pixels a side.
        outer_loops: steps of the images under one network (DC and DSA); null: 1 with one image a
            class, else 2.
        inner_loops: steps of that network on the synthetic images, all in one batch, between two
            steps of the images (DC and DSA); null: 1 with one image a class, else 3.
        network_learning_rate: of the network's SGD (DC and DSA).
        width, depth: of the ConvNet.

    Raises:
        ValueError: `augment` contradicts the matching, or a parameter was changed that the others
            leave without effect.
    """

    payload = "images"
    made_for = "images"
    keeps_state = False
    private = "noisy means"

    def __init__(
        self,
        matching: Literal["gdd", "dm", "dsa", "dc"] = "gdd",
        images_per_class: PositiveInt = 10,
        iterations: NonNegativeInt = 300,
        image_optimizer: Literal["sgd", "adam"] = "sgd",
        image_learning_rate: PositiveFloat = 1.0,
        image_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        batch_size: PositiveInt = 64,
        init: Literal["noise", "real"] = "noise",
        clamp: bool = False,
        augment: Augmentation | None = None,
        layers: Layers = "last",
        perturb: Literal["image", "feature"] = "image",
        perturb_probability: Annotated[float, Field(ge=0, le=1)] = 0.5,
        encoder: Literal["random", "trained"] = "random",
        encoder_steps: PositiveInt = 300,
        view_labels: NonNegativeInt = 0,
        embedding_pool: PositiveInt = 1,
        outer_loops: PositiveInt | None = None,
        inner_loops: PositiveInt | None = None,
        network_learning_rate: PositiveFloat = 0.01,
        width: PositiveInt = 128,
        depth: PositiveInt = 3,
    ) -> None:
        self.matching = matching
        self.images_per_class = images_per_class
        self.iterations = iterations
        self.image_optimizer = image_optimizer
        self.image_learning_rate = image_learning_rate
        self.image_momentum = image_momentum
        self.batch_size = batch_size
        self.init = init
        self.clamp = clamp
        self.augment: Augmentation = augment or MATCHINGS[matching].augmentations[0]
        self.layers = layers
        self.perturb = perturb
        self.perturb_probability = perturb_probability
        self.encoder = encoder
        self.encoder_steps = encoder_steps
        self.view_labels = view_labels
        self.embedding_pool = embedding_pool
        self.outer_loops = outer_loops
        self.inner_loops = inner_loops
        self.network_learning_rate = network_learning_rate
        self.width = width
        self.depth = depth
        self._check()
        self._matching = self._made()

    @property
    def discloses(self) -> tuple[str, ...]:
        """What of the site's records the replies carry."""
        found = []
        if self.init == "real":
            found.append("real pixels: the synthetic images start from real ones")
        if self.view_labels:
            found.append("view labels: outputs of a network trained on the site's images")
        return tuple(found)

    def private_steps(self, units: int, expected_batch: int) -> int:
        """One release an iteration, see `Client.private_steps`."""
        defaults = inspect.signature(Distill).parameters
        needs = {"matching": "dm", "init": "noise"} | {
            name: defaults[name].default for name in ("layers", "encoder", "view_labels")
        }
        wrong = [
            f"{name}: {value}" for name, value in needs.items() if getattr(self, name) != value
        ]
        if wrong:
            raise ValueError(f"distillation has a private form only with {', '.join(wrong)}")
        return self.iterations

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Send the synthetic images, their labels, labels of views, and how the distilling went."""
        keep_memory()
        codec = cast(Codec, content.config_records["config"]["codec"])
        if site.releases is not None:
            return self._train_privately(codec, site, site.releases)
        members = {c: site.train.of_class(c) for c in range(site.task.num_classes)}
        members = {label: positions for label, positions in members.items() if len(positions)}
        labels = torch.tensor(list(members)).repeat_interleave(self.images_per_class)
        stages = self._train_encoder(members, site)
        images, loss = self._distil(self._start(members, site), labels, members, stages, site)
        metrics: dict[str, Any] = {
            "num-examples": len(site.train),
            "loss": loss,
            "clipped": clipped_fraction(images),
        }
        encoded = encode_images(images, codec)
        reply = RecordDict(
            {
                "images": tensor_record({"images": encoded}),
                "labels": tensor_record({"labels": labels}),
                "metrics": MetricRecord(metrics),
            }
        )
        # A network that saw one class tells nothing about a view.
        if self.view_labels and len(members) > 1:
            seed = site.seed("views")
            found = self._label_views(decode_images(encoded), stages[-1], seed, [*members], site)
            reply["view_labels"] = tensor_record({"view_labels": found})
            reply["view_seed"] = ConfigRecord({"seed": seed})
        return reply

    def _label_views(
        self, images: torch.Tensor, state: State, seed: int, classes: list[int], site: Site
    ) -> torch.Tensor:
        """Labels float16 [views, n, classes] of views of the images by the network in `state`."""
        network = self._network(site)
        network.load_state_dict(state)
        numbers = site.steps(self.view_labels, "label views")
        found = label_views(network, images, numbers, seed, classes, device=site.device)
        # A trial reaches a few views; its reply must be as large as a run's.
        return torch.cat([found, found[-1:].expand(self.view_labels - len(found), -1, -1)])

    def _train_privately(self, codec: Codec, site: Site, releases: Releases) -> RecordDict:
        """Images of all classes, whichever the site has, that learned from noisy sums alone."""
        task = site.task
        encoder = self._network(site).features.requires_grad_(False).to(site.device)
        labels = torch.arange(task.num_classes).repeat_interleave(self.images_per_class)
        shape = (len(labels), *task.input_shape)
        images = torch.randn(shape, generator=site.generator("synthetic-start")).to(site.device)
        black, white = picture_range(site.device)
        images = (images.clamp(black, white) if self.clamp else images).requires_grad_(True)
        optimizer, scheduler = self._optimizer(images)
        draws = site.generator("distil")

        def read(positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            return site.train.images(positions), site.train.labels[positions]

        def after() -> None:
            if self.clamp:
                images.data.clamp_(black, white)
            if scheduler is not None:
                scheduler.step()

        match_privately(
            images,
            labels,
            encoder,
            lambda: redraw(encoder, draws),
            read,
            releases,
            site.steps(self.iterations, "distil privately"),
            optimizer,
            classes=task.num_classes,
            pool=self.embedding_pool,
            after=after,
        )
        moved = images.detach().cpu()
        metrics: dict[str, Any] = {
            "num-examples": len(site.train),
            "clipped": clipped_fraction(moved),
        }
        return RecordDict(
            {
                "images": tensor_record({"images": encode_images(moved, codec)}),
                "labels": tensor_record({"labels": labels}),
                "metrics": MetricRecord(metrics),
            }
        )

    def _train_encoder(self, members: dict[int, np.ndarray], site: Site) -> list[State]:
        """Stages of a network trained on the site's images, the last at its end; [] for none."""
        if self.encoder == "random":
            return []
        network = self._network(site)
        draws = site.generator("encoder")
        redraw(network, draws)
        return train_with_snapshots(
            network,
            site.train.images,
            members,
            site.steps(self.encoder_steps, "train encoder"),
            self.encoder_steps,
            draws,
            device=site.device,
            augment=augmentation(self.augment, draws),
        )

    def _network(self, site: Site) -> ConvNet:
        channels, side, _ = site.task.input_shape
        return ConvNet(site.task.num_classes, channels, side, self.width, self.depth)

    def _start(self, members: dict[int, np.ndarray], site: Site) -> torch.Tensor:
        """The images [n, C, H, W] that the distillation starts from, class after class."""
        draws = site.generator("synthetic-start")
        if self.init == "real":
            chosen = [draw_records(of, self.images_per_class, draws) for of in members.values()]
            return site.train.images(np.concatenate(chosen))
        count = len(members) * self.images_per_class
        return torch.randn((count, *site.task.input_shape), generator=draws)

    def _distil(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        members: dict[int, np.ndarray],
        stages: list[State],
        site: Site,
    ) -> tuple[torch.Tensor, float]:
        """Move the images [n, C, H, W] for all iterations; return them and the last loss."""
        classifier = self._network(site).to(site.device)
        # The network sees one image at a time (instance normalisation): training mode is fine.
        matching = self._matching
        network = matching.network(classifier)
        draws = site.generator("distil")
        black, white = picture_range(site.device)
        images = images.to(site.device)
        if self.clamp:
            images = images.clamp(black, white)
        images.requires_grad_(True)
        optimizer, scheduler = self._optimizer(images)

        def read(positions: np.ndarray) -> torch.Tensor:
            return site.train.images(positions).to(site.device)

        loss = torch.zeros(())
        for _ in site.steps(self.iterations, "distil"):
            if stages:
                drawn = int(torch.randint(len(stages), (), generator=draws))
                classifier.load_state_dict(stages[drawn])
            else:
                redraw(network, draws)
            for loop in range(matching.outer_loops):
                if loop:
                    matching.fit(network, images.detach(), labels, self.augment, draws)
                matches = matching.matches(
                    images,
                    labels,
                    members,
                    read,
                    network,
                    draws,
                    batch_size=self.batch_size,
                    augment=self.augment,
                )
                loss = matching.loss(network, matches)
                optimizer.zero_grad(set_to_none=True)
                loss.backward(inputs=[images])
                optimizer.step()
                if self.clamp:
                    images.data.clamp_(black, white)
            if scheduler is not None:
                scheduler.step()
        return images.detach().cpu(), loss.item()

    def _optimizer(
        self, images: torch.Tensor
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        rate = self.image_learning_rate
        if self.image_optimizer == "sgd":
            return SGD([images], lr=rate, momentum=self.image_momentum), None
        adam = Adam([images], lr=rate)
        return adam, torch.optim.lr_scheduler.CosineAnnealingLR(
            adam, max(1, self.iterations), eta_min=rate * _ADAM_FINAL_RATE
        )

    def _made(self) -> Matching:
        """What the images are made to match, with the parameters that it has."""
        kind = MATCHINGS[self.matching]
        loops = (1, 1) if self.images_per_class == 1 else (2, 3)
        unless_said = dict(zip(("outer_loops", "inner_loops"), loops, strict=True))
        names = kind.parameters()
        given = {name: getattr(self, name) for name in names}
        return kind(**given | {k: v for k, v in unless_said.items() if given.get(k, v) is None})

    def _check(self) -> None:
        problems = []
        goes, asked = MATCHINGS[self.matching].augmentations, self.augment
        if asked not in goes:
            other = next(name for name, m in MATCHINGS.items() if m.augmentations == (asked,))
            problems.append(
                f"With matching: {self.matching} augment is {' or '.join(goes)}, but {asked} was "
                f"asked for: leave augment out, or change matching to {other}."
            )
        parameters = inspect.signature(Distill).parameters
        for name, (other, values) in _used_with().items():
            given, there = getattr(self, name), getattr(self, other)
            if there not in values and given != parameters[name].default:
                problems.append(
                    f"The parameter {name} ({given}) has no effect with {other}: {there}, only "
                    f"with {' and '.join(values)}: leave it out, or change {other}."
                )
        if problems:
            raise ValueError(" ".join(problems))


def _used_with() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Parameter -> with which values of which other one it is looked at."""
    found = dict(_USED_WITH)
    for kind in MATCHINGS.values():
        for name in kind.parameters():
            having = tuple(n for n, other in MATCHINGS.items() if name in other.parameters())
            found[name] = ("matching", having)
    return found
