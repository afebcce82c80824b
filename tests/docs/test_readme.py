"""README and CONTRIBUTING: what they name exists, and README's numbers are those of the results."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from fedsim import scenario
from fedsim.cli import main

ROOT = Path(__file__).parents[2]
PAPERS = ["README.md", "CONTRIBUTING.md"]
NAME = re.compile(r"\b(?:isic|prostate|hippocampus)_\w+")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> dict[str, dict[str, str]]:
    """Rows of the only table whose header begins so: first cell -> title -> cell."""
    lines = text.partition(f"\n| {heading} |")[2].partition("\n\n")[0].splitlines()
    titles = [cell.strip() for cell in f"{heading} |{lines[0]}".strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def test_the_table_of_readme_is_that_of_the_results() -> None:
    short = table(text_of("README.md"), "method")
    whole = table(text_of("docs/results.md"), "method | seeds")
    assert len(short) == 12
    for method, row in short.items():
        known = whole[method]
        tie = " ~" if "~" in known["95%"] else ""  # the second column of that name
        assert row["AUC"] == known["AUC"], method
        assert row["AUC - alone"] == known["AUC - alone"] + tie, method
        assert (row["MB up"], row["minutes"]) == (known["MB up"], known["minutes"]), method


@pytest.mark.parametrize("paper", PAPERS)
def test_links_and_pictures_lead_somewhere(paper: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(paper)):
        path, _, anchor = target.partition("#")
        if path.startswith("https:"):
            continue
        there = ROOT / (path or paper)
        assert there.exists(), target
        titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("paper", PAPERS)
def test_commands_would_be_accepted(paper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", text_of(paper), re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^(?:\.venv/bin/)?fedsim (.*?)(?:\s+#.*)?$", shell, re.MULTILINE)
    assert lines
    for line in lines:
        verb, *words = shlex.split(line)
        with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as usage:
            main([verb, "--help"])
        assert all(word in usage.getvalue() for word in words if word.startswith("--")), line
        if verb == "run":
            keys = [word for word in words if "=" in word and word != "data.root=DIR"]
            scenario.load(words[0], keys)


@pytest.mark.parametrize("paper", PAPERS)
def test_make_targets_and_scenarios_exist(paper: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(paper), re.MULTILINE))
    assert named
    assert named <= targets
    assert set(NAME.findall(text_of(paper))) <= set(scenario.names())
