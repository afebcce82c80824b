"""Whether what one-shot methods sent gives real images away: measured, not proved.

How near synthetic images lie to the training images of the client that made them, compared with how
near real images lie to each other, and with how near unseen ones lie; and whether the finished
model tells who trained it. What the numbers say, and what they do not, is in `docs/leakage.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.data.store import Store
from fedsim.data.views import View
from fedsim.federation.holdings import Federation, stand_in_note
from fedsim.folder.runfolder import RunFolder, plain
from fedsim.report.leakage.measure import (
    EXPLAINED,
    Neighbours,
    Records,
    find_neighbours,
    strata,
    summarise,
)
from fedsim.report.leakage.membership import EXPLAINED_ATTACK, membership_attack, record_losses
from fedsim.report.leakage.nearest import correlation_of_pairs, match_strata
from fedsim.report.leakage.picture import Shown, draw_pairs
from fedsim.report.sheets import sheet_names

__all__ = ["leakage_line", "leakage_verdict", "write_leakage"]

SCHEMA_VERSION = 1
REAL_IMAGES = "contains real patient images: do not publish"
_PAIRS = 10


def write_leakage(
    folder: Path,
    federation: Federation,
    model: torch.nn.Module,
    device: torch.device,
    rng: np.random.Generator,
    *,
    count_classes: bool = True,
) -> dict[str, Any] | None:
    """Measure the leakage of a finished one-shot run and write it into its run folder.

    Reads `synthetic/<client>.npz`; writes `synthetic/leakage.json` and, where a client sent images,
    `synthetic/nearest_pairs.png`, which shows real images and says so.

    Args:
        folder: the run folder.
        federation: the run's data, and who holds what.
        model: the finished global model.
        device: where to search and to compute losses.
        rng: draws the real images to compare and the bootstrap samples.
        count_classes: False leaves out, as None, what is counted class by class: private runs.

    Returns:
        The content of `leakage.json`: `overall`, `by_client` and `membership` (None where the test
        split shares no class with the training images), `signs`, `closest_pairs`, `explained` and
        `note`. No number is NaN. None, and nothing is written, where no client sent images.

    Raises:
        ValueError: a client's images do not have the shape of the data, or the model has diverged.
    """
    store, test = federation.store, federation.split["test"]
    found = []
    names = sheet_names(list(federation.train))
    for name, train in federation.train.items():
        path = folder / "synthetic" / f"{names[name]}.npz"
        if not path.is_file():
            continue
        with np.load(path) as sent:
            images, labels = sent["images"], sent["labels"]
        if len(images) and len(train):
            found.append(find_neighbours(name, images, labels, store, train, test, rng, device))
    if not found:
        return None
    overall = summarise(found, store.groups)
    attack = _attack(federation, model, device, rng)
    by_client = {one.client: summarise([one], store.groups) for one in found}
    if not count_classes:
        for numbers in (overall, *by_client.values()):
            numbers["compared_images"] = None
        if attack is not None:
            attack |= dict.fromkeys(("members", "non_members", "auc_by_class"))
    pairs, rows = _closest(found, store)
    note = stand_in_note(store)
    result: dict[str, Any] = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "note": note,
            "signs": _signs(overall, attack),
            "overall": overall,
            "by_client": by_client,
            "membership": attack,
            "closest_pairs": pairs,
            "explained": EXPLAINED | {f"membership.{k}": v for k, v in EXPLAINED_ATTACK.items()},
        }
    )
    draw_pairs(folder / "synthetic" / "nearest_pairs.png", rows, note or REAL_IMAGES)
    RunFolder(folder).write_json("synthetic/leakage.json", result)
    return result


def leakage_line(result: Mapping[str, Any]) -> str:
    """One line about a result of `write_leakage`, for a terminal and a report."""
    overall, attack = result["overall"], result["membership"]
    parts = []
    if overall["ratio"] is not None:
        parts.append(
            f"synthetic images lie {overall['ratio']:.1f} times as far from their nearest training "
            f"image as training images from each other (closest {overall['ratio_closest']:.1f})"
        )
    if overall["training_share"] is not None:
        low, high = overall["training_share_low"], overall["training_share_high"]
        parts.append(
            f"nearest is a training image in {overall['training_share']:.0%} "
            f"(95% {100 * low:.0f}-{100 * high:.0f}%, 50% expected)"
        )
    if attack is not None:
        parts.append(
            f"membership AUC {attack['auc']:.2f} ({attack['auc_low']:.2f}-{attack['auc_high']:.2f})"
        )
    signs = _in_words(result)
    parts.append(f"SIGNS OF LEAKAGE: {signs}" if signs else _NO_SIGN)
    return "leakage: " + "; ".join(parts)


def leakage_verdict(result: Mapping[str, Any]) -> str:
    """The same in words that ask for no reading: whether there are signs, and where numbers are."""
    signs = _in_words(result)
    told = f"SIGNS OF LEAKAGE: {signs}" if signs else f"{_NO_SIGN} was measured"
    return f"leakage of real images into the synthetic ones: {told} (numbers: on the page)"


_NO_SIGN = "no sign of leakage"


def _in_words(result: Mapping[str, Any]) -> str:
    """The signs of leakage, "" for none."""
    copies = result["overall"]["near_copies"]
    words = {
        "near_copies": f"{copies} near {'copy' if copies == 1 else 'copies'}",
        "training_share": "nearest images by RMSE",
        "correlation_share": "nearest images by correlation",
        "membership": "membership",
    }
    return ", ".join(words[sign] for sign in result["signs"])


def _attack(
    federation: Federation, model: torch.nn.Module, device: torch.device, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Membership inference, on equally many members and others of each class and site."""
    store, test = federation.store, federation.split["test"]
    members = np.concatenate(list(federation.train.values()))
    inside, outside = match_strata(strata(store, members), strata(store, test), rng)
    losses, labels = [], []
    for positions in (members[inside], test[outside]):
        view = View(store, positions)
        losses.append(record_losses(model, view, device))
        labels.append(view.labels.numpy())
    return membership_attack(losses[0], labels[0], losses[1], labels[1], store.classes, rng)


def _signs(overall: Mapping[str, Any], attack: Mapping[str, Any] | None) -> list[str]:
    """Which measures are beyond what chance explains."""
    signs = ["near_copies"] if overall["near_copies"] else []
    for name in ("training_share", "correlation_share"):
        low = overall[f"{name}_low"]
        if low is not None and low > 0.5:
            signs.append(name)
    if attack is not None and attack["auc_low"] > 0.5:
        signs.append("membership")
    return signs


def _closest(
    found: Sequence[Neighbours], store: Store
) -> tuple[list[dict[str, Any]], list[tuple[Shown | None, ...]]]:
    """The pairs with the smallest distance overall: their numbers, and what to draw of them."""
    places = [
        (one.near.rmse[k], j, k) for j, one in enumerate(found) for k in range(len(one.images))
    ]
    pairs, rows = [], []
    for _, j, k in sorted(places)[:_PAIRS]:
        one = found[j]
        pair = {"client": one.client, "number": k, "class": store.classes[one.labels[k]]}
        row: list[Shown | None] = [Shown(one.images[k], (one.client, str(pair["class"])))]
        for side, near in (("training", one.near), ("unseen", one.unseen)):
            values: tuple[int | None, float | None, float | None] = (None, None, None)
            shown = None
            if near is not None:
                record, rmse = int(near.rmse_index[k]), float(near.rmse[k])
                pixels = Records(store, np.array([record]))[:]
                r = float(correlation_of_pairs(one.images[k : k + 1], pixels)[0])
                values = record, rmse, r
                label = store.classes[store.labels[record]]
                shown = Shown(pixels[0], (label, f"RMSE {rmse:.3f}, r {r:.2f}"))
            names = (f"{side}_record", f"{side}_rmse", f"{side}_correlation")
            pair |= dict(zip(names, values, strict=True))
            row.append(shown)
        pairs.append(pair)
        rows.append(tuple(row))
    return pairs, rows
