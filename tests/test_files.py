"""Names of files made of anybody's text: nothing outside, nothing lost, nothing mixed up."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import InputError
from fedsim.cli import main
from fedsim.files import file_name, file_names, read_regular
from fedsim.folder.runfolder import RunFolder
from fedsim.report.sheets import save_synthetic, sheet_names

STRANGE = (
    *("../../../../OUT", "/tmp/OUT", "..", ".", "", " ", "a/b", "a\\b", "a:b", "a\0b", "a\nb"),
    *(".hidden", "-rf", "~", "$HOME", "*", "con", "NUL", "com1", "Lpt9.txt", "aux .png", "COM¹"),
    *(
        "x" * 300,
        "ä" * 300,
        "\U0001f9ea" * 100,
        "e\u0301",
        "\u00e9",
        "\u202egnp",
        "\ud800",
        "a.",
        "a ",
    ),
)
ORDINARY = ("client-0", "UKE Hamburg", "Charité", "a.b", "site_1", "東京", "(1)", "a+b=c")


@pytest.mark.parametrize("text", STRANGE)
def test_strange_text_becomes_a_plain_name(text: str) -> None:
    name = file_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t')
    assert not name.startswith((".", "-", " "))
    assert not name.endswith((".", " "))
    assert len(name.encode()) <= 80
    assert file_name(name) == name, "a file's name is harmless itself"
    stem = name.partition(".")[0].strip().casefold()
    assert stem not in ("con", "nul", "aux", "com1", "lpt9", "com¹")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_its_own_name(text: str) -> None:
    assert file_name(text) == text
    assert file_names([text])[text] == text


def test_names_that_would_collide_stay_apart_in_any_order() -> None:
    texts = [
        *STRANGE,
        *ORDINARY,
        "Site",
        "site",
        "SITE",
        "straße",
        "STRASSE",
        "a/b",
        "a_b",
        "sheet",
    ]
    names = file_names(texts, reserved=("sheet",))
    assert names == file_names(reversed(texts), reserved=("sheet",))
    folded = [unicodedata.normalize("NFKD", name).casefold() for name in names.values()]
    assert len(set(folded)) == len(set(texts))
    assert names["sheet"] != "sheet"
    # A text that looks like the name of another is kept apart from it, too.
    guess = file_name("a/b")
    both = file_names(["a/b", guess])
    assert both["a/b"] != both[guess]


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_texts_have_names_of_their_own(texts: list[str]) -> None:
    names = file_names(texts)
    assert set(names) == set(texts)
    assert len({unicodedata.normalize("NFKD", n).casefold() for n in names.values()}) == len(names)
    for name in names.values():
        assert os.path.basename(name) == name
        assert 0 < len(name.encode()) <= 80


def test_sheets_stay_in_their_folder_and_each_client_has_its_own(tmp_path: Path) -> None:
    clients = ["../../../../OUT", str(tmp_path / "ABS"), "sheet", "Leakage", "UKE", "uke", "a/b"]
    sent = {
        name: (np.full((1, 3, 8, 8), number, np.uint8), np.zeros(1, np.int64))
        for number, name in enumerate(clients[:-1])
    }
    folder = tmp_path / "one" / "two" / "three" / "four" / "synthetic"
    save_synthetic(folder, sent, ["benign"], clients=clients)
    names = sheet_names(clients)
    for number, name in enumerate(clients[:-1]):
        with np.load(folder / f"{names[name]}.npz") as arrays:
            assert (arrays["images"] == number).all()
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and f.parent != folder]
    assert outside == []
    assert len(list(folder.iterdir())) == 2 * len(sent) + 1


TABLE = "path,label,group,site\n"


def test_a_run_over_sites_with_strange_names_writes_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    data, runs, outside = tmp_path / "data", tmp_path / "r" / "u" / "n" / "s", tmp_path / "ABS"
    sites = ["../../../../OUTSIDE", str(outside / "in"), "\x1b[31mred", "=cmd()"]
    rows = []
    for label in ("benign", "malignant"):
        (data / label).mkdir(parents=True)
        for number in range(24):
            name = f"{label}/{number}.png"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(data / name)
            rows.append(f'{name},{label},{label}{number},"{sites[number % 4]}"\n')
    (data / "table.csv").write_text(TABLE + "".join(rows))
    scenario = tmp_path / "x.yaml"
    scenario.write_text(
        f"name: x\nrounds: 1\ndata: {{name: folder, root: {data}, size: 16, split: {{val: 0}}}}\n"
        "federation: {partition: natural}\nmodel: {name: cnn, width: 8}\n"
        "strategy: {name: gdd, epochs: 1}\nclient: random_selection\n"
        "resources: {backend: inline}\n"
    )
    before = {f for f in tmp_path.rglob("*") if f.is_file()}
    assert main(["run", str(scenario), "--runs", str(runs)]) == 0
    new = {f for f in tmp_path.rglob("*") if f.is_file()} - before
    assert new, "nothing was written at all"
    assert [f for f in new if not f.is_relative_to(runs)] == []
    (folder,) = (runs / "x").glob("2*")
    assert len(list((folder / "synthetic").glob("*.npz"))) == 4
    assert (folder / "synthetic" / "leakage.json").is_file()
    for file in folder.rglob("*.csv"):
        for line in file.read_text().splitlines():
            assert not any(cell.startswith(("=", "+cmd", "@")) for cell in line.split(",")), file


def test_a_run_folder_refuses_to_leave_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 0)
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("../out.json", str(outside / "out.json"), "a/../../out.json"):
        with pytest.raises(InputError, match="outside of the run folder"):
            folder.write_json(name, {})
    (folder.path / "away").symlink_to(outside)
    (folder.path / "lines.jsonl").symlink_to(outside / "lines.jsonl")
    writes: list[Callable[[], None]] = [
        lambda: folder.write_text("away/x.txt", ""),
        lambda: folder.append("lines.jsonl", {}),
        lambda: folder.append("away/lines.jsonl", {}),
        lambda: folder.write_arrays("away/x.npz", a=np.zeros(1)),
    ]
    for write in writes:
        with pytest.raises(InputError, match="outside of the run folder"):
            write()
    assert list(outside.iterdir()) == []
    with pytest.raises(InputError, match="is a link out of the run folder"):
        folder.require_contained()
    folder.write_json("synthetic/x.json", {})
    assert (folder.path / "synthetic" / "x.json").is_file()


def test_a_strangers_run_folder_with_links_is_not_written_into(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 0).path
    (folder / "run.json").write_text('{"status": "failed", "seed": 0, "scenario": "x"}')
    (folder / "scenario.yaml").write_text("name: x\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "report").symlink_to(outside)
    assert main(["run", "--resume", str(folder)]) == 2
    assert main(["report", str(folder)]) == 2
    assert list(outside.iterdir()) == []


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    for name, most in (("file", 4), ("pipe", 5), (".", 5), ("missing", 5)):
        with pytest.raises(OSError):  # noqa: PT011 - each system's own words
            read_regular(tmp_path / name, most)
    with pytest.raises(OSError, match="a pipe, a device or a socket"):
        read_regular(Path("/dev/zero"), 5)
