"""What the last lines of a run call its scores; its page uses the same names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.report.page import build_page
from fedsim.report.record import read_record
from fedsim.report.text import closing_lines
from fedsim.tasks.classification import Classification

# Of 100 records 25 are malignant, and the model calls everything benign.
SCORES = {
    **{"auc": 0.5, "pr_auc": 0.25, "accuracy": 0.75, "balanced_accuracy": 0.5},
    **{"precision": 0.5625, "recall": 0.75, "f1": 0.6429, "sensitivity": 0.0, "specificity": 1.0},
}
SUMMARY: dict[str, Any] = {
    **{"metrics": SCORES, "failed": 0, "data_source": "path", "epsilon": None},
    **{"epsilon_claimed": None, "mb_up_total": 1.0, "mb_down_total": 1.0},
    **{"wall_seconds": 1.0, "peak_rss_mb": 100.0},
}


def test_means_over_classes_are_called_so_and_stand_beside_the_positive_class(
    tmp_path: Path,
) -> None:
    data = {"positive": "malignant", "classes": ["benign", "malignant"]}
    (tmp_path / "run.json").write_text(json.dumps({"data": data}))
    lines = closing_lines(SUMMARY, tmp_path, tmp_path)
    assert lines[:2] == [
        "test: AUC 0.500, PR-AUC 0.250, weighted precision 0.562, weighted recall 0.750, "
        "weighted F1 0.643, balanced accuracy 0.500, sensitivity 0.000, specificity 1.000",
        "positive class: malignant",
    ]


def test_more_than_two_classes_have_no_sensitivity(tmp_path: Path) -> None:
    few = {name: score for name, score in SCORES.items() if not name.endswith("ity")}
    told = closing_lines(SUMMARY | {"metrics": few}, tmp_path, tmp_path)[0]
    assert "weighted precision" in told
    assert "ity" not in told


def test_the_page_calls_them_so_too(make_run: Callable[..., Path]) -> None:
    facts = Classification.facts_of(["benign", "malignant"])
    folder = make_run(task=facts.record())
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"metrics": SCORES}))
    page = build_page(read_record(folder), [])
    table = page.partition("On the whole test split")[2].partition("</table>")[0]
    for name in ("weighted precision", "weighted recall", "weighted F1", "sensitivity"):
        assert f">{name}<" in table
    assert ">precision<" not in table
