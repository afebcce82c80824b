"""The distillation of one site: its loss, and what it may depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import nn

from fedsim.client import Site, Task
from fedsim.clients.distill import Distill, Match, matching_loss, redraw
from fedsim.codecs import decode_images
from fedsim.flower import tensors
from fedsim.models import ConvNet
from fedsim.progress import Steps
from fedsim.randomness import Streams


class Records:
    """A view over images in memory."""

    def __init__(self, labels: list[int], size: int = 8) -> None:
        draws = torch.Generator().manual_seed(5)
        self.labels = torch.tensor(labels)
        self._images = torch.randn(len(labels), 3, size, size, generator=draws)
        self._images += self.labels[:, None, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def of_class(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels.numpy() == label)

    def images(self, positions: np.ndarray) -> torch.Tensor:
        return self._images[positions]


def site(labels: list[int], client: int = 0, seed: int = 0) -> Site:
    records: Any = Records(labels)
    return Site(
        client=client,
        name=f"client-{client}",
        round=1,
        task=Task(("benign", "malignant"), 3, 8),
        train=records,
        val=records,
        state=RecordDict(),
        device=torch.device("cpu"),
        new_model=lambda: nn.Identity(),
        steps=Steps(client),
        _streams=Streams(seed),
    )


def distil(where: Site, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that a site sends, undamaged by a codec."""
    asked = RecordDict({"config": ConfigRecord({"codec": "float32"})})
    settings = {"images_per_class": 2, "iterations": 4, "width": 8, "depth": 2} | parameters
    reply = Distill(**settings).train(asked, where)
    images = tensors(reply.array_records["images"])["images"]
    return images, tensors(reply.array_records["labels"])["labels"]


def test_one_step_under_a_linear_encoder_has_a_closed_form() -> None:
    encoder = nn.Linear(2, 2, bias=False)
    encoder.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
    real = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    images = torch.zeros(1, 2, requires_grad=True)
    loss = matching_loss(encoder, [Match(real, images, 1.0)])
    loss.backward()
    assert loss.item() == pytest.approx(8.0)
    assert images.grad is not None
    assert images.grad.tolist() == [[-4.0, -8.0]]
    assert (images - 0.1 * images.grad).tolist()[0] == pytest.approx([0.4, 0.8])


def test_gdd_without_perturbation_is_dm_at_twice_the_rate() -> None:
    labels = [0] * 9 + [1] * 5
    # One step, in which all real images are in the batch: the two methods draw different numbers,
    # but match the same sets.
    same = {"augment": "none", "iterations": 1, "batch_size": 64}
    gdd, _ = distil(
        site(labels), matching="gdd", perturb_probability=0.0, image_learning_rate=0.5, **same
    )
    dm, _ = distil(site(labels), matching="dm", image_learning_rate=1.0, **same)
    start, _ = distil(site(labels), iterations=0)
    assert not np.allclose(gdd, start, atol=1e-4)
    np.testing.assert_allclose(gdd, dm, rtol=1e-4, atol=1e-5)


def test_perturbation_changes_what_is_matched() -> None:
    labels = [0] * 9 + [1] * 5
    plain, perturbed = (
        distil(site(labels), perturb_probability=p, augment="none", iterations=1)[0]
        for p in (0.0, 1.0)
    )
    assert not np.allclose(plain, perturbed, atol=1e-4)


def test_distilling_lowers_the_matching_loss() -> None:
    labels = [0] * 20 + [1] * 20
    encoder = ConvNet(2, 3, 8, 8, 2).features.requires_grad_(False)
    redraw(encoder, torch.Generator().manual_seed(11))
    real = Records(labels).images(np.arange(20, 40))
    losses = []
    for iterations in (0, 60):
        images, sent = distil(site(labels), iterations=iterations, augment="none", matching="dm")
        images_of_class = torch.from_numpy(images[sent == 1])
        losses.append(matching_loss(encoder, [Match(real, images_of_class, 1.0)]).item())
    assert losses[1] < 0.7 * losses[0]


def test_an_absent_class_is_not_sent() -> None:
    images, labels = distil(site([1] * 6))
    assert labels.tolist() == [1, 1]
    assert images.shape == (2, 3, 8, 8)


def test_a_site_depends_on_itself_alone() -> None:
    labels = [0] * 6 + [1] * 3
    first, _ = distil(site(labels, client=3))
    distil(site([0, 1], client=1))
    torch.rand(5)
    again, _ = distil(site(labels, client=3))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, distil(site(labels, client=4))[0])
    assert not np.array_equal(first, distil(site(labels, client=3, seed=1))[0])


def test_uint8_on_the_wire_is_the_rounded_picture() -> None:
    where = site([0] * 4 + [1] * 4)
    asked = RecordDict({"config": ConfigRecord({"codec": "uint8"})})
    reply = Distill(images_per_class=1, iterations=1, width=8, depth=2).train(asked, where)
    sent = tensors(reply.array_records["images"])["images"]
    assert sent.dtype == np.uint8
    exact, _ = distil(where, images_per_class=1, iterations=1)
    step = np.array([1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225])[:, None, None]
    off = np.abs(decode_images(sent).numpy() - exact) / step
    inside = (sent > 0) & (sent < 255)
    assert inside.any()
    assert off[inside].max() <= 0.51


def test_a_drawn_network_is_fresh_and_torch_like() -> None:
    encoder = ConvNet(2, 3, 16, 32, 3).features
    first_conv = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    before = first_conv.weight.clone()
    redraw(encoder, torch.Generator().manual_seed(0))
    bound = 1 / np.sqrt(27)
    assert not torch.equal(before, first_conv.weight)
    assert first_conv.weight.abs().max() <= bound
    assert first_conv.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    assert first_conv.bias is not None
    assert first_conv.bias.abs().max() <= bound
