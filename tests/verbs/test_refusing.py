"""What would come to light after hours is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import InputError
from fedsim.cli import main
from fedsim.scenario import load


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("distil", "--rows", "raw-1x2"), "--rows: is for engine and transport and segmentation"),
        (("memory", "--turns", "3"), "--turns: is for"),
        (("engine", "--sizes", "32"), "--sizes: is for distil"),
        (("scale", "--batch", "8"), "--batch: is for privacy"),
    ],
)
def test_a_measurement_refuses_the_options_of_others(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert told in refused(capsys, "bench", *words, "--out", str(tmp_path / "bench"))
    assert not (tmp_path / "bench").exists()


def test_a_measurement_needs_a_folder_to_write_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"--out {file}" in refused(capsys, "bench", "engine", "--out", str(file))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("adversary", "nonsense"), "the sweep does not vary nonsense"),
        (("adversary", "adversary"), "name two keys"),
        (("adversary", "strateg"), "did you mean 'strategy'"),
    ],
)
def test_a_sweep_refuses_a_matrix_that_it_does_not_fill(
    keys: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    axes = ("strategy=fedavg,robust", "adversary=null,sign_flip")
    words = ("sweep", "isic_iid_fedavg", *axes, "--runs", str(tmp_path / "runs"), "--dry-run")
    assert told in refused(capsys, *words, "--matrix", *keys)


@pytest.mark.parametrize(
    "rule",
    [
        "{rule: krum, byzantine: 2}",
        "{rule: bulyan, byzantine: 1}",
        "{rule: trimmed_mean, byzantine: 2}",
    ],
)
def test_rules_are_asked_for_the_clients_that_join_a_round(rule: str) -> None:
    strategy = f"strategy={rule.replace('{', '{name: robust, ')}"
    load("isic_noniid_fedavg", [strategy])
    with pytest.raises(InputError, match=r"strategy(\.byzantine)?: byzantine: "):
        load("isic_noniid_fedavg", [strategy, "federation.participation=0.4"])


def test_who_does_not_exist_is_said_before_how_many_there_are(tmp_path: Path) -> None:
    from fedsim import run

    small = ("data.embedded.images=120", "data.size=16", "model={name: cnn, width: 4}")
    with pytest.raises(InputError, match="there is no client 'client-99'"):
        run(
            "isic_noniid_fedavg",
            *small,
            "adversary={name: lie, clients: [client-99]}",
            runs=tmp_path,
        )


def test_attackers_are_not_deployed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = refused(capsys, "export", "isic_noniid_disbelieve", str(tmp_path / "app"))
    assert "adversary: simulates clients that collude" in told
    assert not (tmp_path / "app").exists()
