"""The page of a run: whole, self-contained, escaped; and errors that name the file."""

from __future__ import annotations

import argparse
import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fedsim.errors import InputError
from fedsim.report.page import write_report
from fedsim.verbs import Verbs, report
from tests.report.conftest import round_row, write_predictions
from tests.yaml_bombs import YAML_BOMBS

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its elements, its text, and whether every element was closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self) -> list[bytes]:
        return [b64decode(str(one["src"]).split("base64,")[1]) for one in self.all("img")]


def type_report(folder: Path) -> int:
    """`fedsim report FOLDER`."""
    parser = argparse.ArgumentParser()
    report.add(Verbs(parser))
    parsed = parser.parse_args(["report", str(folder)])
    code: int = parsed.command(parsed)
    return code


def change_run(folder: Path, **data: object) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["data"] |= data
    (folder / "run.json").write_text(json.dumps(record))


def test_a_real_run_gets_a_whole_page(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_run, folder)
    path = write_report(folder)
    assert path == folder / "report" / "index.html"
    page = Page(path)
    assert "tiny, seed 0" in page.text
    assert "generated images, not real data" in page.text
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['metrics']['auc']:.4f}" in page.text
    rows = (folder / "report" / "metric_rounds.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows] == [
        "auc",
        *(repr(line["metrics"]["auc"]) for line in lines),
    ]
    for png in (folder / "report").glob("*.png"):
        assert png.with_suffix(".csv").is_file()
        assert f"report/{png.name}" in page.text
    assert len([one for one in page.all("div") if one.get("role") == "img"]) >= 6
    assert page.images() == []
    assert (folder / "scenario.yaml").read_text() in page.text


def test_the_page_loads_nothing_and_runs_nothing(make_run: Callable[..., Path]) -> None:
    page = Page(write_report(make_run()))
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name)
            # A page that is mailed has nothing beside it: links stay in it.
            places = {f"#{one.get('id')}" for _, one in page.elements}
            assert value is None or value.startswith("data:image/png;") or value in places
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_everything_a_reader_must_be_told_has_words(make_run: Callable[..., Path]) -> None:
    page = Page(write_report(make_run()))
    drawn = [one for _, one in page.elements if one.get("role") == "img"]
    assert drawn
    assert all(len(str(one["aria-label"])) > 20 for one in drawn)
    assert all(one.get("aria-hidden") == "true" for one in page.all("svg"))
    headers = page.all("th")
    assert headers
    assert all(one.get("scope") in ("col", "row") for one in headers)
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html") == [{"lang": "en"}]


def test_texts_of_others_are_escaped(make_run: Callable[..., Path]) -> None:
    nasty = '<script>alert("1")</script>'
    failed = [{"client": 0, "site": "north", "phase": "train", "kind": "error", "reason": nasty}]
    rounds = [round_row(1, failed=failed), round_row(2)]
    rounds[1]["metrics"] = {nasty: 0.5, f"auc@{nasty}": 0.5}
    folder = make_run(rounds, name=nasty, cpu=nasty, released_without_privacy=[nasty])
    change_run(folder, name=nasty, root=nasty, sizes={nasty: 1}, sizes_by_client={nasty: {"t": 3}})
    (folder / "scenario.yaml").write_text(f"name: '{nasty}'\nstrategy: {{name: '{nasty}'}}\n")
    path = write_report(folder)
    assert "<script" not in path.read_text()
    page = Page(path)
    assert page.all("script") == []
    assert page.text.count(nasty) >= 8


def test_failed_clients_are_listed_once_for_each_reason(make_run: Callable[..., Path]) -> None:
    failed = [
        {"client": 1, "site": "south", "phase": "train", "kind": "error", "reason": "no disk"}
    ]
    rows = [round_row(n, failed=failed, metrics_by_client={}) for n in (1, 2, 3)]
    page = Page(write_report(make_run(rows)))
    assert page.text.count("no disk") == 1
    assert "3 messages led to no usable reply" in page.text
    assert "1, 2, 3" in page.text


def test_late_clients_are_told_from_failed_ones(make_run: Callable[..., Path]) -> None:
    late = {"client": 1, "site": "south", "phase": "train", "kind": "late", "reason": "needed 9 s"}
    rows = [round_row(n, failed=[late] if n > 1 else []) for n in (1, 2, 3)]
    folder = make_run(rows)
    text = Page(write_report(folder)).text
    assert "2 client messages came after the scenario's deadline and were not used." in text
    assert "See Late clients." in text
    assert "Crosses mark rounds in which a client came late." in text
    assert "ailed" not in text.partition("How to repeat it")[0].partition("Late clients")[0]
    rows[0]["failed"] = [late | {"kind": "error", "reason": "no disk"}]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = Page(write_report(folder)).text
    assert "1 client messages led to no usable reply" in text
    assert "See Failed and late clients." in text
    assert "Crosses mark rounds in which a client failed or came late." in text


def test_results_of_sites_have_a_table_and_undefined_ones_say_so(
    make_run: Callable[..., Path],
) -> None:
    page = Page(write_report(make_run([round_row(1)])))
    assert "On the test records of each site" in page.text
    assert "0.6123" in page.text
    assert "undefined" in page.text


def test_real_images_are_never_embedded(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)])
    (folder / "synthetic").mkdir()
    for name in ("sheet", "north", "nearest_pairs", "other"):
        (folder / "synthetic" / f"{name}.png").write_bytes(f"picture {name}".encode())
    found = {"signs": ["near_copies"], "overall": {"near_copies": 3}, "explained": {}}
    (folder / "synthetic" / "leakage.json").write_text(json.dumps(found))
    page = Page(write_report(folder))
    embedded = [image for image in page.images() if image.startswith(b"picture")]
    assert embedded == [b"picture sheet"]
    assert "nearest_pairs.png" in page.text
    assert "Signs of leakage: near copies." in page.text


def test_a_run_that_goes_on_gets_what_there_is_and_is_told_what_is_not(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(status="running")
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "pha')  # The line that is being written.
    assert type_report(folder) == 0
    page = Page(folder / "report" / "index.html")
    assert "its status is 'running'" in page.text
    assert "this is the model after round 3" in page.text
    assert "0.6000" in page.text
    printed = capsys.readouterr().out
    for name in ("summary.json", "predictions.npz"):
        assert name in printed
        assert name in page.text


def test_what_a_run_no_longer_shows_is_taken_away(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    write_report(folder)
    assert (folder / "report" / "metric_rounds.png").is_file()
    (folder / "rounds.jsonl").write_text(json.dumps(round_row(1)) + "\n")
    (folder / "report" / "mine.txt").write_text("kept")
    write_report(folder)
    left = {path.name for path in (folder / "report").iterdir()}
    assert left == {"index.html", "partition.png", "partition.csv", "mine.txt"}


def test_reports_are_the_same_each_time(make_run: Callable[..., Path]) -> None:
    folder = make_run([round_row(1)])
    rng = np.random.default_rng(0)
    write_predictions(folder, np.arange(20) % 2, rng.dirichlet((1, 1), (1, 20)))
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


@pytest.mark.parametrize("name", ["rounds.jsonl", "traffic.jsonl", "summary.json", "scenario.yaml"])
def test_a_finished_run_without_a_file_is_refused_by_its_name(
    make_run: Callable[..., Path], name: str
) -> None:
    folder = make_run()
    (folder / name).unlink()
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert str(folder / name) in str(caught.value)
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("run.json", "{", "run.json"),
        ("run.json", "[]", "run.json"),
        ("run.json", '{"scenario": "a", "seed": 1, "status": "done"}', "run.json"),
        ("rounds.jsonl", "{}\nnot json\n", "rounds.jsonl:2"),
        ("rounds.jsonl", '{"round": "one"}\n', "rounds.jsonl:1"),
        ("traffic.jsonl", "5\n", "traffic.jsonl:1"),
        ("summary.json", '{"metrics": 3}', "summary.json"),
        ("scenario.yaml", "a: [", "scenario.yaml"),
        ("scenario.yaml", "just text", "scenario.yaml"),
        *[
            pytest.param("scenario.yaml", bomb, "scenario.yaml", id=name)
            for name, bomb in YAML_BOMBS.items()
        ],
        ("predictions.npz", "no archive", "predictions.npz"),
    ],
)
def test_a_corrupted_file_is_named(
    make_run: Callable[..., Path], name: str, content: str, where: str
) -> None:
    folder = make_run()
    (folder / name).write_text(content)
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert any(str(folder / where) in problem.where for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("rounds.jsonl", ("metrics", "auc"), "high"),
        ("rounds.jsonl", ("metrics", "auc"), [1]),
        ("rounds.jsonl", ("metrics_by_client", "0"), 3),
        ("rounds.jsonl", ("epsilon_by_client",), {"0": "x"}),
        ("rounds.jsonl", ("epsilon_by_client",), 5),
        ("rounds.jsonl", ("seconds",), "long"),
        ("rounds.jsonl", ("failed",), ["north"]),
        ("traffic.jsonl", ("fields", "arrays"), [1]),
        ("traffic.jsonl", ("direction",), "sideways"),
        ("summary.json", ("metrics", "auc"), {"a": 1}),
        ("run.json", ("data", "sizes"), [None, "x"]),
        ("run.json", ("data", "sizes_by_client"), {"north": 4}),
        ("run.json", ("data", "sizes_by_client"), ["north"]),
        ("run.json", ("data", "sizes_by_client"), {"north": {"train": -1}}),
        ("run.json", ("data", "classes_by_client"), {"north": [1, 2]}),
        ("run.json", ("data", "classes"), [1, 2]),
    ],
)
def test_an_entry_of_another_kind_is_named(
    make_run: Callable[..., Path], name: str, keys: tuple[str, ...], value: object
) -> None:
    folder = make_run()
    lines = (folder / name).read_text().splitlines() if name.endswith("l") else None
    content = json.loads(lines[0] if lines else (folder / name).read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    text = json.dumps(content)
    (folder / name).write_text("\n".join([text, *lines[1:], ""]) if lines else text)
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert all(str(folder / name) in problem.where for problem in caught.value.problems)
    assert keys[-1] in str(caught.value) or keys[-2] in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        (np.zeros(3, np.int64), np.zeros((1, 4, 2), np.float32)),
        (np.zeros(4, np.int64), np.zeros((4, 2), np.float32)),
        (np.full(4, 2), np.zeros((1, 4, 2), np.float32)),
        (np.zeros(4, np.int64), np.full((1, 4, 2), np.nan, np.float32)),
    ],
)
def test_predictions_that_do_not_fit_are_named(
    make_run: Callable[..., Path], labels: np.ndarray, probabilities: np.ndarray
) -> None:
    folder = make_run()
    write_predictions(folder, labels, probabilities)
    with pytest.raises(InputError, match=r"predictions\.npz"):
        write_report(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        write_report(tmp_path)


def test_one_bad_run_does_not_keep_the_others_from_their_pages(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_run([round_row(1)])
    bad = good.parent / "two"
    shutil.copytree(good, bad)
    (bad / "rounds.jsonl").write_text("{\n")
    with pytest.raises(InputError) as caught:
        type_report(good.parent)
    assert str(good / "report" / "index.html") in capsys.readouterr().out
    assert [problem.where for problem in caught.value.problems] == [f"{bad / 'rounds.jsonl'}:1"]


def test_external_records_and_home_and_away_have_tables_of_their_own(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run()
    told = json.loads((folder / "summary.json").read_text())
    told["metrics"] |= {"external_auc": 0.41, "auc@own": 0.7, "auc@others": 0.5}
    (folder / "summary.json").write_text(json.dumps(told))
    page = write_report(folder).read_text()
    whole, _, rest = page.partition("On external records")
    assert "external_auc" not in page
    assert "0.41" not in whole.partition("On the whole test split")[2].partition("</table>")[0]
    assert "0.41" in rest
    assert "AUC at home" in rest
    assert "AUC elsewhere" in rest
