"""Each kind of distillation through a whole federation of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim import run
from fedsim.api import estimate
from fedsim.scenario import load
from fedsim.terminal.console import Console
from fedsim.wire.codecs import image_bytes

SCENARIO = """\
name: tiny
rounds: 1
data: {name: ham10000, size: 16, embedded: {images: 120, sites: 2}}
federation: {clients: 2, partition: iid}
model: {name: convnet, width: 8}
strategy: {name: gdd, epochs: 2}
client: {name: distill, images_per_class: 2, iterations: 2, width: 8, batch_size: 8}
resources: {backend: inline}
"""


@pytest.mark.parametrize(
    "settings",
    [
        ["client.matching=gdd", "client.perturb=feature", "client.clamp=true"],
        ["client.matching=dm", "client.layers=all", "client.init=real"],
        ["client.matching=dc", "client.image_learning_rate=0.1"],
        ["client.matching=dsa", "client.image_learning_rate=0.1"],
    ],
)
def test_all_matchings_send_the_same_bytes_and_give_a_model(
    settings: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SCENARIO)
    folder = run(file, *settings, runs=tmp_path / "runs").folder
    assert json.loads((folder / "summary.json").read_text())["metrics"]["auc"] is not None
    lines = [json.loads(line) for line in (folder / "traffic.jsonl").read_text().splitlines()]
    sent = sum(line["fields"]["images"] for line in lines if line["direction"] == "up")
    assert sent == image_bytes(2, 2, 2, 16)


def test_labels_of_views_are_counted_declared_and_expected_by_a_trial(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SCENARIO)
    settings = ["client.encoder=trained", "client.encoder_steps=5", "client.view_labels=40"]
    folder = run(file, *settings, runs=tmp_path / "runs").folder
    lines = [json.loads(line) for line in (folder / "traffic.jsonl").read_text().splitlines()]
    up = [line["fields"] for line in lines if line["direction"] == "up"]
    # 40 views of 4 images, probabilities of 2 classes in 16 bits.
    assert [fields["view_labels"] for fields in up] == [40 * 4 * 2 * 2] * 2
    assert sum(fields["images"] for fields in up) == image_bytes(2, 2, 2, 16)
    released = json.loads((folder / "run.json").read_text())["released_without_privacy"]
    assert any(item.startswith("view labels:") for item in released)
    summary = json.loads((folder / "summary.json").read_text())
    expected = estimate(load(str(file), settings), 0, Console(quiet=True))
    assert expected.mb_up == pytest.approx(summary["mb_up_total"], rel=0.01)
