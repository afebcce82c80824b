"""The text of a scenario that fits a folder: what a person may want to change, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from fedsim.starting.found import Found, Setting

_COLUMN = 28  # where comments begin


@dataclass(frozen=True)
class Sheet:
    """What a scenario is written from.

    Attributes:
        name: of the scenario.
        found: the data.
        size: of the images in pixels, or of slices in voxels.
        partition: the block, without clients.
        clients: how many; None where the partition knows.
        partition_why: a comment.
        split: shares of validation and test.
        rounds: of training.
        skipped: records that cannot be used.
        positive: of two classes; None where the data set says so.
        training: training records of the largest client.
    """

    steps: ClassVar[int] = 20
    """Steps of a client in a round, of volumes."""

    name: str
    found: Found
    size: int
    partition: dict[str, Any] = field(default_factory=lambda: {"name": "iid"})
    clients: int | None = 2
    partition_why: str = ""
    split: dict[str, float] = field(default_factory=lambda: {"val": 0.1, "test": 0.2})
    rounds: int = 3
    skipped: int = 0
    positive: Setting | None = None
    training: int = 1


def scenario_text(sheet: Sheet) -> str:
    """The file, with comments."""
    found = sheet.found
    volumes = found.kind == "volumes"
    task = "segment its structures" if volumes else "classify its images"
    lines = [
        f"# {sheet.name}: hospitals learn together to {task}, and share no data.",
        "#",
        f"# Data:    {_one_line(found.layout)}.",
        "# Minutes: about 1 on one core, chosen for a first look: more rounds and larger images "
        "learn more.",
        "# Look:    fedsim data show FILE   who holds what, as a table and a picture",
        "# Check:   fedsim check FILE       everything is right, and one tiny round runs",
        "# Run:     fedsim run FILE         all rounds, a page with the result in runs/",
        "",
        f"name: {flow(sheet.name)}",
        _line("seeds", [0], "[0, 1, 2] runs three times and tells the spread"),
        _line("rounds", sheet.rounds, "clients train and the server averages so many times"),
        "",
        "data:",
        _line("name", found.dataset, "what reads the folder: docs/data/", 1),
    ]
    if found.root is not None:
        lines.append(f"  root: {flow(str(found.root))}")
    lines += [_line(one.key, one.value, one.why, 1) for one in found.settings]
    if sheet.positive is not None:
        why = f"sensitivity and AUC are of it; {sheet.positive.why}"
        lines.append(_line("positive", sheet.positive.value, why, 1))
    lines += _sizes(sheet)
    lines.append(_line("split", sheet.split, "shares of the records; the rest is for training", 1))
    if sheet.skipped:
        why = f"{sheet.skipped} cannot be used: false names them and stops"
        lines.append(_line("skip_bad", True, why, 1))
    lines += ["", "federation:"]
    if sheet.clients is not None:
        lines.append(_line("clients", sheet.clients, "hospitals", 1))
    lines += [f"  # {_one_line(sheet.partition_why)}"] if sheet.partition_why else []
    lines += ["  partition:", *(_line(key, one, "", 2) for key, one in sheet.partition.items())]
    lines += ["", *(_training_of_volumes() if volumes else _training_of_images())]
    lines += ["", "resources:", _line("backend", "inline", "ray runs clients in parallel", 1)]
    return "\n".join([*lines, "", *_privacy(sheet)]) + "\n"


def flow(value: Any) -> str:
    """A value in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _line(key: str, value: Any, comment: str, depth: int = 0) -> str:
    text = f"{'  ' * depth}{key}: {flow(value)}"
    return f"{text:<{_COLUMN}}  # {_one_line(comment)}" if comment else text


def _one_line(text: str) -> str:
    """Anybody's text in a comment: a line end would end it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _sizes(sheet: Sheet) -> list[str]:
    if sheet.found.kind == "images":
        why = "pixels; 224 with model resnet18 is what papers take, and slow without a GPU"
        return [_line("size", sheet.size, why, 1)]
    return [
        _line("size", sheet.size, "voxels of a slice's height and width", 1),
        _line("field_of_view", 1.0, "the whole slice is scaled to that; 0.7: its middle part", 1),
    ]


def _training_of_images() -> list[str]:
    return [
        "model:",
        _line("name", "convnet", "or resnet18, resnet9, cnn", 1),
        "  width: 64",
        "",
        "strategy:",
        _line("name", "fedavg", "or gdd (one round of synthetic images): docs/methods/", 1),
        "",
        "client:",
        "  name: supervised",
        _line("epochs", 1, "passes over a hospital's images in a round", 1),
        "  batch_size: 16",
        "  learning_rate: 0.01",
        _line("class_balanced", True, "a rare class counts as much", 1),
    ]


def _training_of_volumes() -> list[str]:
    return [
        "model:",
        _line("name", "unet", "or dynunet", 1),
        "  channels: [16, 32, 64]",
        "",
        "strategy:",
        "  name: fedavg",
        "  weighting: uniform",
        "",
        "client:",
        "  name: segmentation",
        _line("steps", Sheet.steps, "in a round; a step takes batch_size patches", 1),
        "  batch_size: 16",
        "  learning_rate: 0.2",
        "",
        "evaluation:",
        _line("every", 5, "rounds between scores on the test cases", 1),
    ]


def _privacy(sheet: Sheet) -> list[str]:
    """A block to uncomment."""
    if sheet.found.kind == "volumes":
        return ["# Differential privacy: docs/privacy.md"]
    digits = len(str(sheet.training))
    delta = f"1.0e-{max(3, digits)}"
    return [
        "# Differential privacy, of each patient where several records are of one: uncomment this,",
        "# and set class_balanced: false (docs/privacy.md).",
        "# privacy:",
        "#   target_epsilon: 8.0",
        f"#   delta: {delta}",
    ]
