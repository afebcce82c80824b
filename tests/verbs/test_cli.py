"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fedsim import InputError
from fedsim.cli import main
from tests.shipped import needed

Typed = Callable[..., tuple[int, str, str]]
Case = tuple[list[str], list[str]]


@pytest.fixture
def typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Typed:
    """Types a command in an empty folder; returns exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


def skin_folder(root: Path, csv: str, files: dict[str, bytes | None]) -> Path:
    """A folder in ISIC 2020's layout: a table, and images (None: a real tiny JPEG)."""
    (root / "train").mkdir(parents=True)
    (root / "train.csv").write_text(csv)
    for name, content in files.items():
        path = root / "train" / name
        if content is None:
            Image.new("RGB", (20, 20), (200, 120, 100)).save(path)
        else:
            path.write_bytes(content)
    return root


def wrong(case: str, folder: Path) -> Case:
    """The command of a wrong input, and what must be said about it."""
    names = [f"ISIC_{i}.jpg" for i in range(12)]
    rows = "".join(f"ISIC_{i},p{i},{i % 2}\n" for i in range(12))
    run = ["run", "isic_noniid_fedavg", "--quiet"]
    if case == "unknown scenario":
        return ["run", "isic_noniid_gd"], ["isic_noniid_gdd", "fedsim ls"]
    if case == "unknown key":
        return [*run, "data.sise=64"], ["sise", "size", "command line"]
    if case == "wrong type":
        return [*run, "rounds=ten"], ["rounds", "whole number", "'ten'"]
    if case == "unknown strategy":
        return [*run, "strategy=fedavgg"], ["fedavgg", "fedavg"]
    if case == "unknown parameter of a strategy":
        return [*run, "strategy.codek=uint8"], ["codek", "codec"]
    if case == "empty data root":
        (folder / "empty").mkdir()
        return [*run, "data.root=empty"], ["empty", "data.root"]
    if case == "missing data root":
        return [*run, "data.root=nowhere"], ["nowhere", "data.root"]
    if case == "wrong csv column":
        skin_folder(folder / "data", "image_name,patient_id,label\n", {})
        return [*run, "data.root=data"], ["train.csv", "target", "label"]
    if case == "unreadable jpeg":
        files: dict[str, bytes | None] = dict.fromkeys(names)
        files["ISIC_3.jpg"] = b"not a picture"
        skin_folder(folder / "data", "image_name,patient_id,target\n" + rows, files)
        return [*run, "data.root=data"], ["ISIC_3", "data.skip_bad=true"]
    if case == "missing image":
        skin_folder(
            folder / "data", "image_name,patient_id,target\n" + rows, dict.fromkeys(names[1:])
        )
        return [*run, "data.root=data"], ["ISIC_0", "data.skip_bad=true"]
    if case == "more clients than samples":
        small = "data.embedded={images: 60}"
        return [*run, small, "federation.clients=500"], ["500", "clients"]
    if case == "alpha of zero":
        return [*run, "federation.partition.alpha=0"], ["alpha", "above 0"]
    if case == "not YAML":
        (folder / "broken.yaml").write_text("name: [unclosed\nrounds: 1\n")
        return ["run", "broken.yaml"], ["broken.yaml:"]
    if case == "not a mapping":
        (folder / "list.yaml").write_text("- 1\n- 2\n")
        return ["check", "list.yaml"], ["list.yaml"]
    if case == "unknown verb":
        return ["runn", "isic_noniid_gdd"], ["no verb 'runn'", "'run'", "fedsim --help"]
    if case == "no verb":
        return ["--wokers"], ["fedsim --help"]
    if case == "a resume folder that is none":
        (folder / "other").mkdir()
        return ["run", "--resume", "other"], ["other", "not a run folder"]
    if case == "a resume folder that is missing":
        return ["run", "--resume", "gone"], ["gone", "does not exist"]
    if case == "impossible privacy":
        return [*run, "privacy={mechanism: dp_sgd}"], ["privacy"]
    if case == "a run to compare that is none":
        return ["compare", "gone"], ["gone"]
    if case == "existing file to copy to":
        (folder / "mine.yaml").write_text("")
        return ["cp", "isic_noniid_gdd", "mine.yaml"], ["exists already"]
    if case == "unknown option":
        return [*run, "--wokers", "2"], ["--wokers", "did you mean '--workers'", "run --help"]
    if case == "unknown short option":
        return [*run, "-s", "3"], ["-s: run has no such option (did you mean '--seed'?)"]
    if case == "unknown options of another verb":
        words = ["compare", "runs", "--basline", "x", "--markdwn=y"]
        return words, ["--basline", "'--baseline'", "--markdwn", "'--markdown'"]
    raise AssertionError(case)


CASES = (
    "unknown scenario",
    "unknown key",
    "wrong type",
    "unknown strategy",
    "unknown parameter of a strategy",
    "empty data root",
    "missing data root",
    "wrong csv column",
    "unreadable jpeg",
    "missing image",
    "more clients than samples",
    "alpha of zero",
    "not YAML",
    "not a mapping",
    "unknown verb",
    "no verb",
    "a resume folder that is none",
    "a resume folder that is missing",
    "impossible privacy",
    "a run to compare that is none",
    "existing file to copy to",
    "unknown option",
    "unknown short option",
    "unknown options of another verb",
)


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_gets_one_clear_error(case: str, typed: Typed, tmp_path: Path) -> None:
    command, expected = wrong(case, tmp_path)
    code, out, err = typed(*command)
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert len((out + err).splitlines()) <= 40
    for words in expected:
        assert words in err
    assert not (tmp_path / "runs").exists(), "wrong input leaves no run folder"


@pytest.mark.parametrize("verb", ["report", "compare", "clean", "audit", "run --resume"])
def test_a_name_that_no_file_can_have_is_wrong_input(verb: str, typed: Typed) -> None:
    code, out, err = typed(*verb.split(), "x" * 300)
    assert code == 2
    assert err.startswith("error: ")
    assert "fault" not in err
    assert len((out + err).splitlines()) <= 2


def test_all_problems_are_told_at_once_with_their_lines(typed: Typed, tmp_path: Path) -> None:
    _, text, _ = typed("show", "isic_noniid_fedavg")
    lines = text.replace("rounds:", "roundz:").replace("alpha: 1.0", "alpha: -1").splitlines()
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    code, _, err = typed("run", "mine.yaml", "client.epochs=none")
    assert code == 2
    roundz = next(i for i, line in enumerate(lines, 1) if line.startswith("roundz"))
    assert f"mine.yaml:{roundz}: " in err
    assert "alpha" in err
    assert "client.epochs" in err
    assert "3 problems" in err


def test_a_client_that_raises_exits_with_1(typed: Typed, tmp_path: Path) -> None:
    from tests.engine.conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY)
    code, _, err = typed("run", "tiny.yaml", "client=misbehaving:Raises")
    assert code == 1
    assert "client 1 (site 'client-1') failed in round 1" in err
    assert "the scanner is on fire" in err


def test_run_compare_check_and_dry_run(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    from tests.engine.conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY.replace("rounds: 2", "rounds: 2\nseeds: [0, 1]"))
    code, out, _ = typed("check", "tiny.yaml")
    assert (code, "valid" in out) == (0, True)
    code, out, _ = typed("run", "tiny.yaml", "--dry-run")
    assert code == 0
    assert "2 round(s)" in out
    assert not (tmp_path / "runs").exists()
    (forecast,) = re.findall(r"about ([\d.]+) MB up", out)

    code, out, _ = typed("run", "tiny.yaml")
    assert code == 0
    assert out.count("EMBEDDED STAND-IN") == 2
    assert "round 2/2 | auc 0." in out
    folders = sorted((tmp_path / "runs" / "tiny").glob("*seed*"))
    assert [folder.name[-5:] for folder in folders] == ["seed0", "seed1"]
    code, _, _ = typed("run", "tiny.yaml", "--seed", "7", "client.epochs=2", "--quiet")
    assert code == 0

    code, out, err = typed("compare", "runs/tiny")
    assert code == 0
    header, _, first, second, *_ = out.splitlines()
    for column in ("AUC", "P", "R", "F1", "bal.acc", "PR-AUC", "MB up", "MB down", "seconds"):
        assert column in header
    assert "+-" in first
    assert "client.epochs=2" in second
    assert "embedded" in first
    aucs = [float(line.split("embedded")[1].split()[1].split("+-")[0]) for line in (first, second)]
    assert all(0 <= auc <= 100 for auc in aucs), "in per cent"
    assert forecast in first, "the forecast is what was sent"
    assert not err

    code, out, _ = typed("run", "--resume", str(folders[0]))
    assert (code, "finished" in out) == (0, True)


def test_flower_s_own_strategies_do_not_talk_between_the_lines() -> None:
    words = ("check", "isic_noniid_fedavg", "strategy={name: flwr.serverapp.strategy.FedProx, "
             "proximal_mu: 0.1}")  # fmt: skip
    finished = subprocess.run(
        [sys.executable, "-m", "fedsim", *words], capture_output=True, text=True, check=True
    )
    assert "INFO" not in finished.stdout + finished.stderr
    assert "WARNING" not in finished.stdout + finished.stderr
    assert "valid" in finished.stdout


def test_without_a_verb_the_help_says_what_to_type_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from fedsim.cli import _parser

    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    commands = re.findall(r"^  fedsim (\w+)", told, re.MULTILINE)
    assert len(commands) == 3
    assert set(commands) <= set(_parser()[1].names)


def test_ls_reads_alone_in_a_narrow_terminal_and_in_a_pipe(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = typed("ls")
    header, *lines = out.splitlines()
    assert header.split() == ["name", "data", "method", "min", "about"]
    (gdd,) = [line for line in lines if line.startswith("isic_noniid_gdd ")]
    assert gdd.split()[:4] == ["isic_noniid_gdd", "isic2020", "gdd/distill", "2.5"]
    assert gdd.endswith("the server trains on them (GDD, one-shot).")
    (private,) = [line for line in lines if line.startswith("isic_iid_dpsgd ")]
    assert private.split()[2:5] == ["fedavg/supervised", "+DP", "-"], "not measured"
    assert len(lines) == len(typed("ls", "*")[1].splitlines()) - 1

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = typed("ls", "dpsgd")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\n    Five hospitals with equal shares train one model, each with DP-SGD.\n" in out


def test_ls_long_and_as_json(typed: Typed) -> None:
    _, out, _ = typed("ls", "isic_noniid_dsa", "--long")
    for told in ("extends    isic_noniid_dc", "paper      Zhao and Bilen", "expect     0.64 MB up"):
        assert told in out
    found = json.loads(typed("ls", "isic_noniid_*", "--json")[1])
    (dsa,) = [one for one in found if one["name"] == "isic_noniid_dsa"]
    assert (dsa["data"], dsa["extends"], dsa["minutes"]) == ("isic2020", "isic_noniid_dc", None)
    assert dsa["about"]["Expect"].startswith("0.64 MB up")


def test_show_resolves_what_a_file_extends_and_what_is_typed(typed: Typed, tmp_path: Path) -> None:
    from fedsim.scenario import load

    _, written, _ = typed("show", "isic_noniid_dsa")
    assert "extends: isic_noniid_dc" in written
    _, resolved, _ = typed("show", "isic_noniid_dsa", "--resolved")
    assert resolved == load("isic_noniid_dsa").to_yaml()
    for words in (["client.iterations=3", "--resolved"], ["client.iterations=3"]):
        _, changed, _ = typed("show", "isic_noniid_dsa", *words)
        assert changed == load("isic_noniid_dsa", ["client.iterations=3"]).to_yaml()
    code, _, err = typed("show", "isic_noniid_dsa", "client.iteration=3")
    assert (code, "did you mean 'iterations'" in err) == (2, True)
    typed("cp", "isic_noniid_dsa", "mine.yaml")
    assert "extends" not in (tmp_path / "mine.yaml").read_text()
    assert load(tmp_path / "mine.yaml").to_yaml() == load("isic_noniid_dsa").to_yaml()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fedsim co", {"compare"}),
        ("fedsim run isic_noniid_gdd_p", {"isic_noniid_gdd_plus", "isic_noniid_gdd_private"}),
        ("fedsim sweep x --see", {"--seed", "--seeds"}),
        ("fedsim weights get eff", {"efficientnet_lite0"}),
    ],
)
def test_a_shell_completes_verbs_options_and_scenarios(
    line: str, found: set[str], tmp_path: Path
) -> None:
    pytest.importorskip("argcomplete")
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "fedsim"], env=environment, check=True, cwd=tmp_path)
    assert set((tmp_path / "words").read_text().split()) == found


def test_a_dry_run_says_what_a_run_would_cost_and_where_that_was_measured(
    typed: Typed, tmp_path: Path
) -> None:
    from tests.engine.conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY)
    private = ["client.class_balanced=false", "privacy={noise_multiplier: 2.0, delta: 1e-3}"]
    code, out, _ = typed("run", "tiny.yaml", *private, "--dry-run")
    assert code == 0
    assert re.search(
        r"  privacy   epsilon [\d.]+ \(exact Gaussian\) at delta 0.001 after 2 round", out
    )
    memory = re.search(r"  memory    up to ([\d,]+) MB", out)
    disk = re.search(r"  disk      about ([\d.]+) MB", out)
    assert memory is not None
    assert disk is not None
    assert float(memory[1].replace(",", "")) > 200, "PyTorch alone takes as much"
    assert 1 < float(disk[1]) < 4
    assert re.search(r"  taken on  .+ \d+ cores?", out)


def test_a_dry_run_of_what_never_ends_ends(typed: Typed, tmp_path: Path) -> None:
    from tests.engine.conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY)
    for endless in (
        ["client.epochs=1000000000000"],
        [f"client.epochs={10**18}"],
        ["rounds=1000000000", "client.epochs=1000"],
    ):
        code, out, err = typed("run", "tiny.yaml", *endless, "--dry-run")
        assert (code, err) == (0, "")
        assert re.search(r"  time      roughly [\d.,e+]+ years", out)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (2e5, "2 days"),
     (6.4e7, "2 years"), (1e20, "3.2e+12 years")],
)  # fmt: skip
def test_a_duration_is_told_in_a_unit_that_suits_it(seconds: float, told: str) -> None:
    from fedsim.engine.costing import duration

    assert duration(seconds) == told


def test_ls_show_cp_plugins_data(typed: Typed, tmp_path: Path) -> None:
    code, out, _ = typed("ls", "isic_noniid_*")
    assert code == 0
    assert {"isic_noniid_gdd", "isic_noniid_fedavg"} <= {
        line.split()[0] for line in out.splitlines()
    }
    code, out, _ = typed("cp", "isic_noniid_gdd", "mine.yaml")
    assert code == 0
    assert "its name is still isic_noniid_gdd" in out
    assert (tmp_path / "mine.yaml").read_text() == typed("show", "isic_noniid_gdd")[1]
    code, out, _ = typed("plugins")
    assert code == 0
    assert all(name in out for name in ("fedavg", "gdd", "distill", "resnet18", "dirichlet"))
    code, out, _ = typed("data", "status")
    assert code == 0
    assert "isic2020" in out
    code, out, _ = typed("data", "show", "isic_noniid_gdd", "data.embedded={images: 300}")
    assert code == 0
    assert "client-9" in out
    assert (tmp_path / "isic_noniid_gdd-partition.png").stat().st_size > 5000


def test_every_shipped_scenario_loads_and_opens_with_what_a_reader_needs(
    typed: Typed, tmp_path: Path
) -> None:
    from fedsim import scenario

    assert len(scenario.names()) >= 6
    for name in scenario.names():
        loaded = scenario.load(name, needed(name))
        assert loaded.name == name
        header = "\n".join(scenario.header(name)).lower()
        for said in ("paper:", "expect:", "minutes:"):
            assert said in header, f"{name} does not say {said}"
        if "paper" not in loaded.profiles:
            continue
        if name == "prostate_fewshot_incontext":
            # Its weights are in no package: the profile says what to fetch, and takes the file.
            with pytest.raises(InputError, match=r"model.init: no package .* fetch https://"):
                scenario.load(name, ["profile=paper"])
            weights = tmp_path / "weights.pt"
            weights.touch()
            scenario.load(name, ["profile=paper", f"model.init={weights}"])
            continue
        scenario.load(name, ["profile=paper"])


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys; from fedsim.cli import _parser; _parser();"
        "heavy = {'torch', 'flwr', 'ray', 'monai', 'opacus', 'matplotlib', 'sklearn'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
