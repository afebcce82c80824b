"""The server of one-shot distillation: what it takes from clients, and what it trains on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsim.distillation import view
from fedsim.errors import RunError
from fedsim.grid.progress import Steps
from fedsim.method.client import Task
from fedsim.method.strategy import Server
from fedsim.method.training import augmentation
from fedsim.models import ConvNet
from fedsim.randomness import SERVER, Streams
from fedsim.strategies import gdd
from fedsim.strategies.gdd import GDD, Upload
from fedsim.wire.codecs import encode_images
from fedsim.wire.flower import pack_state, tensor_record, tensors

SEED = 2**62 + 5


def model() -> ConvNet:
    return ConvNet(2, 3, 8, 8, 2)


def probabilities(views: int, count: int = 4) -> np.ndarray:
    draws = np.random.default_rng(3).uniform(size=(views, count, 1))
    return np.concatenate([draws, 1 - draws], axis=2).astype(np.float16)


def reply(client: int = 0, **records: Any) -> SimpleNamespace:
    """An answer with four images; `records` are added to it, or take the place of others."""
    draws = torch.Generator().manual_seed(client)
    images = encode_images(torch.randn(4, 3, 8, 8, generator=draws), "uint8")
    parts = {
        "images": tensor_record({"images": images}),
        "labels": tensor_record({"labels": torch.tensor([0, 0, 1, 1])}),
        "metrics": MetricRecord({"num-examples": 9}),
    }
    return SimpleNamespace(client=client, content=RecordDict(parts | records))


def labelled(client: int = 0, labels: np.ndarray | None = None, **seed: Any) -> SimpleNamespace:
    """An answer with labels of five views."""
    found = probabilities(5) if labels is None else labels
    return reply(
        client,
        view_labels=tensor_record({"view_labels": found}),
        view_seed=ConfigRecord(seed or {"seed": SEED}),
    )


def train(*replies: SimpleNamespace, epochs: int = 3, **parameters: Any) -> tuple[bytes, float]:
    """The bytes of the model after the server's training, and the loss."""
    strategy = GDD(epochs=epochs, batch_size=3, **parameters)
    strategy.setup(
        Server(
            task=Task(("benign", "malignant"), 3, 8),
            names=[f"client-{k}" for k in range(3)],
            rounds=1,
            participation=1.0,
            device=torch.device("cpu"),
            new_model=model,
            steps=Steps(SERVER),
            validate=None,
            folder=None,
            note="",
            client_of=lambda answer: answer.client,  # type: ignore[attr-defined]
            _streams=Streams(0),
            round=1,
        )
    )
    torch.manual_seed(1)
    strategy._initial = pack_state(model().state_dict())
    answers: Any = replies
    arrays, metrics = strategy.aggregate_train(1, answers)
    assert arrays is not None
    assert metrics is not None
    assert metrics["images"] == 4 * len(replies)
    weights = b"".join(values.tobytes() for values in tensors(arrays).values())
    return weights, float(metrics["loss"])  # type: ignore[arg-type]


def test_the_model_depends_on_labels_and_seed_of_the_views() -> None:
    trained, _ = train(labelled(), reply(1))
    assert trained == train(labelled(), reply(1))[0]
    others = [
        train(reply(), reply(1)),
        train(labelled(seed=SEED + 1), reply(1)),
        train(labelled(labels=probabilities(5)[..., ::-1].copy()), reply(1)),
        train(labelled(), labelled(1)),
    ]
    assert len({trained, *(found for found, _ in others)}) == 5


def test_batches_are_the_views_with_their_labels_and_all_come_before_one_again() -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.from_numpy(probabilities(5)).float()
    upload = Upload("client-0", images, torch.tensor([0, 0, 1, 1]), labels, SEED)
    batches = gdd._view_batches([upload], 2, 3, torch.Generator().manual_seed(4), None)
    wanted = {
        view(images, SEED, n)[k].numpy().tobytes(): (n, k) for n in range(5) for k in range(4)
    }
    seen = []
    for _ in range(5):
        parts = [next(batches) for _ in range(2)]
        assert [len(shown) for shown, _ in parts] == [3, 1]
        found = []
        for shown, targets in parts:
            for image, target in zip(shown, targets, strict=True):
                number, position = wanted[image.numpy().tobytes()]
                assert torch.equal(target, labels[number, position])
                found.append((number, position))
        assert sorted(position for _, position in found) == [0, 1, 2, 3]
        assert len({number for number, _ in found}) == 1
        seen.append(found[0][0])
    assert sorted(seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("augment", ["siamese", "none"])
def test_a_client_without_labels_of_views_keeps_its_labels(augment: str) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    own = torch.tensor([0, 1, 1, 1])
    views = torch.from_numpy(probabilities(5)).float()
    uploads = [Upload("one", images, own, views, SEED), Upload("two", images + 1, own)]
    draws = torch.Generator().manual_seed(4)
    change = augmentation(augment, draws)  # type: ignore[arg-type]
    shown, targets = next(gdd._view_batches(uploads, 2, 8, draws, change))
    assert shown.shape == (8, 3, 8, 8)
    hard = targets[(targets == 0).any(dim=1)]
    assert sorted(hard.argmax(dim=1).tolist()) == own.tolist()
    plain = {image.numpy().tobytes() for image in images + 1}
    kept = sum(image.numpy().tobytes() in plain for image in shown)
    assert kept == 4 if augment == "none" else kept < 4


def test_soft_labels_are_what_the_loss_compares_with() -> None:
    _, even = train(labelled(labels=np.full((5, 4, 2), 0.5, np.float16)), epochs=40)
    # The cross-entropy of even labels is ln 2 at least, however long the model learns them.
    assert np.log(2) - 1e-3 <= even <= 1.0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (labelled(labels=probabilities(5, count=3)), r"'client-0' .* shape \(5, 3, 2\) for 4 "),
        (labelled(labels=probabilities(5)[0]), r"shape \(4, 2\) .* expected \(views, 4, 2\)"),
        (labelled(labels=probabilities(0)), r"\(0, 4, 2\) .* with at least one view"),
        (labelled(labels=np.full((1, 4, 2), np.nan, np.float16)), "NaN or infinite"),
        (labelled(labels=np.full((1, 4, 2), 0.7, np.float16)), r"no probabilities: .* sum to 1.4"),
        (labelled(labels=np.tile(np.float16([-1, 2]), (1, 4, 1))), "the smallest is -1"),
        (labelled(seed=-1), "with the seed -1; expected a whole number"),
        (labelled(seed=0.5), r"with the seed 0\.5"),
        (labelled(number=3), "with the seed None"),
        (reply(view_labels=tensor_record({"view_labels": probabilities(2)})), "the seed None"),
        (reply(view_labels=tensor_record({"labels": probabilities(2)})), "no array view_labels"),
    ],
)
def test_wrong_labels_of_views_are_refused(answer: SimpleNamespace, words: str) -> None:
    with pytest.raises(RunError, match=words):
        train(answer)
