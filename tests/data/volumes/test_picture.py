"""What is printed and drawn of volumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from fedsim.data.volumes.prostate import ProstateX
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.data.volumes.views import VolumeView
from fedsim.report.volumes import (
    by_site,
    client_lines,
    save_sites,
    save_volumes,
    site_lines,
    store_lines,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> VolumeStore:
    return prepare_volumes(
        ProstateX(outlines="zones_and_lesions"),
        name="prostatex",
        root=None,
        size=24,
        embedded={"scale": 0.01, "mean_slices": 8},
        skip_bad=False,
        cache=tmp_path_factory.mktemp("cache"),
    )


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
    return [text.get_text().strip() for text in found if text.get_text().strip()]


def drawn(figure: matplotlib.figure.Figure) -> int:
    return sum(bool(axes.images) for axes in figure.axes)


def test_sites_stand_side_by_side_with_outlines_and_a_legend(store, tmp_path, figures):
    out = tmp_path / "sites.png"
    save_volumes(by_site(store), store.structures, out, title="who has what", note="not real data")
    (figure,) = figures
    assert drawn(figure) == 8
    text = words(figure)
    for expected in (*store.site_names, *store.structures, "who has what", "not real data"):
        assert text.count(expected) == 1
    assert any(word.startswith("centre-2-001, slice ") for word in text)
    # Each picture has an outline for each structure that its slice shows.
    lines = [len(axes.collections) for axes in figure.axes if axes.images]
    assert all(2 <= count <= 3 for count in lines)
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert (picture[:3] == 255).all()


def test_a_client_is_drawn_with_its_own_labels(store, tmp_path, figures):
    columns = {
        "zones": VolumeView(store, np.arange(3)),
        "lesions": VolumeView(store, np.arange(3, 6), hide=lambda x: np.where(x == 3, x, 0)),
    }
    save_volumes(columns, store.structures, tmp_path / "clients.png", title="t", cases=3)
    lines = {
        axes.texts[0].get_text().split(",")[0]: len(axes.collections)
        for axes in figures[0].axes
        if axes.images
    }
    assert len(lines) == 6
    assert all(lines[f"centre-1-00{case}"] >= 2 for case in range(3))
    assert all(lines[f"centre-2-00{case}"] <= 1 for case in range(3))


@pytest.mark.parametrize(("cases", "pictures"), [(1, 1), (3, 3), (5, 5), (12, 6)])
def test_a_single_site_shows_more_cases(store, tmp_path, figures, cases, pictures):
    view = VolumeView(store, np.arange(cases))
    save_volumes({"only": view}, store.structures, tmp_path / "one.png", title="t")
    assert drawn(figures[0]) == pictures
    assert words(figures[0]).count("only") == 1


def test_the_tables_count_cases_and_structures(store):
    text = "\n".join(store_lines("prostatex", store))
    assert "EMBEDDED STAND-IN for prostatex" in text
    assert "12 volumes, outlines of peripheral_zone, transition_zone, lesion" in text
    lines = [line.split() for line in site_lines(store)]
    assert [line[0] for line in lines] == ["site", *store.site_names]
    assert all(line[1] == "3" for line in lines[1:])
    assert lines[1][-3:-1] == ["3", "3"]
    shown = sum((store.label(case) == 3).any() for case in np.flatnonzero(store.sites == 1))
    assert lines[2][-1] == str(shown)
    split = {"train": np.arange(10), "test": np.array([10, 11])}
    rows = client_lines(store, {"one": np.array([0, 3, 4])}, split)
    assert [row.split() for row in rows[1:]] == [
        ["one", "1", "2", "0", "0", "3"],
        ["(train)", "3", "3", "3", "1", "10"],
        ["(test)", "0", "0", "0", "2", "2"],
    ]


def test_a_store_that_was_read_says_from_where(store):
    from dataclasses import replace

    read = replace(store, source="path", root="/data/px", skipped=("a: b",))
    assert store_lines("prostatex", read)[0].startswith("prostatex from /data/px: 12 volumes")
    assert Path(store_lines("prostatex", read)[-1].split()[-1]) == store.folder
    assert store_lines("prostatex", read)[1] == "problems of cases that were left out: 1"


def test_of_many_sites_and_clients_the_tables_tell_the_spread(tmp_path_factory, tmp_path, figures):
    store = prepare_volumes(
        ProstateX(),
        name="prostatex",
        root=None,
        size=24,
        embedded={"scale": 0.4, "mean_slices": 8},
        skip_bad=False,
        cache=tmp_path_factory.mktemp("cache"),
    )
    cases = np.arange(len(store))
    many = dataclasses.replace(
        store, sites=cases, site_names=tuple(f"site-{case}" for case in cases)
    )
    assert len(store) >= 50
    lines = [line.split() for line in site_lines(many)]
    assert lines[0][:4] == ["of", str(len(store)), "sites", "cases"]
    assert len(lines) == 9
    clients = {f"client-{case}": np.array([case]) for case in cases}
    lines = client_lines(many, clients, {"test": cases[:3]})
    assert len(lines) == 10
    assert lines[0].split() == ["of", str(len(store)), "clients", "all"]
    assert lines[-1].split() == ["(test)", "3"]
    assert lines[4].split() == ["median", "1"]
    save_sites(many, "prostatex", tmp_path / "sites.png")
    assert drawn(figures[0]) == 12
    assert f"prostatex: two cases each of 12 of its {len(store)} sites" in words(figures[0])
