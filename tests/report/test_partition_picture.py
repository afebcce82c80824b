"""The picture of a partition."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from fedsim.report.partition_picture import partition_picture


@pytest.fixture
def figures(monkeypatch) -> list[matplotlib.figure.Figure]:
    """The figures that were saved."""
    saved = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        saved.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved


def words(figure: matplotlib.figure.Figure) -> list[str]:
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text().strip() for text in found if text.get_visible()]


@pytest.mark.parametrize(
    ("clients", "classes"), [(2, 2), (10, 7), (49, 3), (3, 12), (100, 3), (1000, 12)]
)
def test_everything_said_lies_within_the_picture(tmp_path, figures, clients, classes):
    labels = np.random.default_rng(0).integers(0, classes, 5000)
    parts = {f"client-{k}": np.arange(k, 5000, clients) for k in range(clients)}
    names = [f"a long diagnosis {k}" if classes > 9 else f"dx{k}" for k in range(classes)]
    path = tmp_path / "p.png"
    partition_picture(parts, labels, names, path, title="who holds what", note="not real data")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
    (figure,) = figures
    told = {"who holds what", "not real data", *names, *(parts if clients < 50 else ())}
    assert told <= set(words(figure))
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height


def test_a_rare_class_is_told_in_numbers(tmp_path, figures):
    labels = np.zeros(3000, dtype=np.int64)
    labels[[5, 7, 2000]] = 1
    parts = {"a": np.arange(1000), "b": np.arange(1000, 3000)}
    partition_picture(parts, labels, ("benign", "malignant"), tmp_path / "p.png", title="t")
    assert {"998", "2", "1999", "1", "1000", "2000"} <= set(words(figures[0]))


def test_no_half_written_file_stays(tmp_path):
    labels = np.array([0, 1])
    parts = {"a": np.array([0]), "b": np.array([1])}
    partition_picture(parts, labels, ("x", "y"), tmp_path / "p.png", title="t")
    assert [file.name for file in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("clients", [50, 1000, 10_000])
def test_of_many_clients_the_picture_shows_how_records_are_spread(tmp_path, figures, clients):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    parts = {f"client-{k}": np.arange(k, 20_000, clients) for k in range(clients)}
    path = tmp_path / "p.png"
    partition_picture(parts, labels, ("benign", "malignant"), path, title="t")
    with Image.open(path) as picture:
        assert picture.size[1] < 1000
    text = words(figures[0])
    assert not any(word.startswith("client-") for word in text)
    holds = [np.bincount(labels[part], minlength=2) for part in parts.values()]
    assert f"{clients} clients; median {20_000 // clients} records" in text
    for label in (0, 1):
        assert f"{sum(one[label] > 0 for one in holds)} clients" in text


def test_names_are_no_formulas_and_long_ones_are_shortened(tmp_path, figures, recwarn):
    labels = np.array([0, 1, 0, 1])
    parts = {"$\\frac{$": np.array([0, 1]), "皮" + "x" * 300: np.array([2, 3])}
    partition_picture(parts, labels, ("$a", "b$_"), tmp_path / "p.png", title="$^$" + "t" * 500)
    assert {"$\\frac{$", "$a", "b$_"} <= set(words(figures[0]))
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size[0] < 2000
    assert not recwarn.list
