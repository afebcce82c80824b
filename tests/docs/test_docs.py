"""The documentation is run: its files, commands, tables and links are compared with the code."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import itertools
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
import yaml
from pydantic import BaseModel

from fedsim import errors, run, scenario
from fedsim import registry as registry_module
from fedsim.cli import main
from fedsim.data.phantom import skin
from fedsim.data.skin import HAM10000
from fedsim.models import ConvNet, ResNet18, SmallCNN
from fedsim.scenario.parameters import parameter_types
from fedsim.scenario.schema import PluginBlock, Scenario
from fedsim.tasks.classification.metrics import classification_metrics
from fedsim.wire.codecs import image_bytes

DOCS = Path(__file__).parents[2] / "docs"
ROOT = DOCS.parent
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:-\d+)?")


@dataclass(frozen=True)
class Command:
    """One typed command, the output that the page promises, and its exit code."""

    words: list[str]
    expected: list[str]
    code: int


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    return FENCE.findall((DOCS / page).read_text(encoding="utf-8"))


def files_of(page: str) -> dict[str, str]:
    """Path -> text of the blocks that begin with `# file: path`."""
    found = {}
    for _, text in blocks(page):
        first, _, rest = text.partition("\n")
        if first.startswith("# file: "):
            found[first.removeprefix("# file: ")] = rest
    return found


def commands_of(page: str) -> list[Command]:
    """The commands of the console blocks, in order."""
    found = []
    for language, text in blocks(page):
        if language != "console":
            continue
        for part in text.split("$ fedsim ")[1:]:
            typed, *lines = part.splitlines()
            codes = [int(line.split()[-1]) for line in lines if line.startswith("# exit code")]
            expected = [line for line in lines if not line.startswith("# exit code")]
            found.append(Command(shlex.split(typed), expected, codes[0] if codes else 0))
    return found


def pattern(expected: list[str]) -> str:
    """A regular expression for output: any number for a number, any lines for `...`."""
    parts = []
    for line in expected:
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            literal = [re.escape(text) for text in NUMBER.split(line)]
            parts.append(NUMBER.pattern.join(literal) + r"\n")
    return "".join(parts)


def typed(words: list[str]) -> tuple[int, str]:
    """Exit code and all output of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(words)
    return code, text.getvalue()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of `authoring.md`; its package is found as if it were installed."""
    folder = tmp_path_factory.mktemp("workshop")
    files = files_of("authoring.md")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    package = folder / "my-methods"
    (package / "my_methods").mkdir()
    (package / "my_methods" / "__init__.py").touch()
    (package / "my_methods" / "trimmed_mean.py").write_text(files["methods/trimmed_mean.py"])
    install(package)

    path, modules, threads = list(sys.path), set(sys.modules), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDSIM_CACHE", str(folder / "cache"))
        patch.delenv("FEDSIM_DATA", raising=False)
        patch.syspath_prepend(package)
        registry_module.default_registry.cache_clear()
        torch.set_num_threads(1)
        yield folder
    torch.set_num_threads(threads)
    registry_module.default_registry.cache_clear()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(folder)):
            del sys.modules[name]


def install(package: Path) -> None:
    """Write beside a package what its installation would: name, version and entry points."""
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    metadata = package / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (metadata / "METADATA").write_text(head)
    lines = []
    for group, entries in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("command", commands_of("authoring.md"), ids=lambda c: " ".join(c.words))
def test_a_command_prints_what_the_page_says(command: Command, workshop: Path) -> None:
    # In any order the package is there, but for the command that makes it.
    new, package = ["new", "strategy", "shy_mean"], workshop / "shy_mean"
    if command.words == new:
        shutil.rmtree(package, ignore_errors=True)
        sys.path[:] = [place for place in sys.path if Path(place) != package]
        for name in [name for name in sys.modules if name.partition(".")[0] == "shy_mean"]:
            del sys.modules[name]
    elif "shy_mean" in " ".join(command.words) and not package.exists():
        typed(new)
    code, output = typed(command.words)
    assert re.fullmatch(pattern(command.expected), output), output
    assert code == command.code
    promised = re.search(r"^test: AUC ([\d.]+)", "\n".join(command.expected), re.MULTILINE)
    if promised:
        found = re.search(r"^test: AUC ([\d.]+)", output, re.MULTILINE)
        assert found is not None
        # The page's numbers are of another processor; what counts is that the methods learn.
        assert float(found[1]) > 0.6
        assert float(found[1]) == pytest.approx(float(promised[1]), abs=0.05)


def test_a_python_example_runs(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [
        text
        for language, text in blocks("authoring.md")
        if language == "python" and not text.startswith("# file:")
    ]
    assert examples
    for text in examples:
        exec(compile(text, "authoring.md", "exec"), {})
        assert "/runs/experiment/" in capsys.readouterr().out.split(" ")[0]


def test_the_tests_of_the_page_are_checks_that_pass(workshop: Path) -> None:
    page: dict[str, Any] = {}
    text = files_of("authoring.md")["tests/test_methods.py"]
    exec(compile(text, "test_methods.py", "exec"), page)
    for name in ("test_strategy", "test_client"):
        (mark,) = page[name].pytestmark
        said = {check.name: check() for check in mark.args[1] if "state" in check.name}
        assert said == {
            "state survives a checkpoint": "cut after round 1 and resumed: the same bits"
        }


def test_the_strategy_with_a_memory_resumes_to_the_same_bits(workshop: Path) -> None:
    own = "strategy=server_momentum.ServerMomentum"
    folder = run("experiment.yaml", own, "client.epochs=1", runs=workshop / "whole").folder
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "checkpoint" / "round-000003.ckpt").unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    (folder / "model.safetensors").unlink()
    code, output = typed(["run", "--resume", str(folder)])
    assert code == 0, output
    assert "resumed after round 2 of 3" in output
    assert (folder / "model.safetensors").read_bytes() == whole


# --- Tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of a page, and the text between it and the table or heading before it."""

    page: str
    before: str
    header: list[str]
    rows: list[list[str]]

    def column(self, title: str) -> list[str]:
        """The cells below a title."""
        return [row[self.header.index(title)] for row in self.rows]

    def names(self, title: str) -> set[str]:
        """All that is written as code in the cells below a title."""
        return {name for cell in self.column(title) for name in re.findall("`([^`]+)`", cell)}


def tables(page: str) -> list[Table]:
    """The tables of a page."""
    found: list[Table] = []
    before: list[str] = []
    lines = FENCE.sub("", (DOCS / page).read_text(encoding="utf-8")).splitlines()
    while lines:
        line = lines.pop(0)
        if not line.startswith("|"):
            before = [] if line.startswith("#") else [*before, line]
            continue
        rows = [line]
        while lines and lines[0].startswith("|"):
            rows.append(lines.pop(0))
        header, _, *cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
        assert all(len(row) == len(header) for row in cells), f"{page}: {header}"
        found.append(Table(page, "\n".join(before), header, cells))
        before = []
    return found


def table(page: str, first: str, before: str = "") -> Table:
    """The only table of a page whose first column has this title, after this text."""
    (found,) = [t for t in tables(page) if t.header[0] == first and before in t.before]
    return found


def numbers(text: str) -> list[float]:
    """The numbers in a text, without the commas between thousands."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]


def value(cell: str) -> Any:
    """The value that a cell of defaults stands for."""
    if cell == "required":
        return inspect.Parameter.empty
    return yaml.safe_load(re.sub(r"^(\d+)e", r"\1.0e", cell.strip("`")))


# --- Keys of a scenario --------------------------------------------------------------------------


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (annotation, default) of all keys; of a plugin's block, fedsim's own."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        default: Any = field.get_default(call_default_factory=True)
        if field.is_required():
            default = inspect.Parameter.empty
        blocks = [a for a in get_args(inner) if isinstance(a, type) and issubclass(a, BaseModel)]
        if blocks:  # a block that may be null, or one for each client
            found[prefix + name] = inner, default
            below_it = "<client>." if get_origin(inner) is dict else ""
            found |= keys_of(blocks[0], f"{prefix}{name}.{below_it}")
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            below = keys_of(inner, f"{prefix}{name}.")
            if isinstance(default, PluginBlock):
                annotation, _ = below[f"{prefix}{name}.name"]
                below[f"{prefix}{name}.name"] = annotation, default.name
            found |= below
        else:
            found[prefix + name] = inner, list(default) if default == () else default
    return found


def test_every_key_of_a_scenario_is_listed_with_its_default() -> None:
    listed = table("scenarios.md", "key")
    defaults = dict(zip(listed.column("key"), listed.column("default"), strict=True))
    written = {key.strip("`"): value(cell) for key, cell in defaults.items()}
    known = keys_of(Scenario)
    plain = {key: list(d) if isinstance(d, tuple) else d for key, (_, d) in known.items()}
    assert written == plain
    assert [str(type(written[key])) for key in known] == [str(type(plain[key])) for key in known]


def test_the_choices_of_a_key_are_listed() -> None:
    listed = table("scenarios.md", "key")
    types = dict(zip(listed.column("key"), listed.column("type"), strict=True))
    choices = {
        k: get_args(a) for k, (a, _) in keys_of(Scenario).items() if get_origin(a) is Literal
    }
    assert choices
    for key, options in choices.items():
        assert set(re.findall("`([^`]+)`", types[f"`{key}`"])) == set(options)


def test_a_key_that_names_a_plugin_lists_all_that_ship() -> None:
    listed = table("scenarios.md", "key")
    meanings = dict(zip(listed.column("key"), listed.column("meaning"), strict=True))
    keys = {
        "data": "datasets", "federation.partition": "partitions", "model": "models",
        "strategy": "strategies", "client": "clients",
    }  # fmt: skip
    plugins = registry_module.Registry().plugins()
    for key, group in keys.items():
        ours = {p.name for p in plugins if p.group == group and p.distribution == "fedsim-medical"}
        assert set(re.findall("`([^`]+)`", meanings[f"`{key}.name`"])) == ours, key


# --- Parameters of plugins -----------------------------------------------------------------------

OWNER = re.compile(r"Parameters of `([\w.]+:\w+)`")
PARAMETERS = {
    OWNER.findall(listed.before)[-1]: listed
    for page in PAGES
    for listed in tables(page)
    if listed.header[0] == "parameter"
}


def found_at(place: str) -> Callable[..., Any]:
    """The object at "package.module:Name"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("place", PARAMETERS)
def test_every_parameter_is_listed_with_its_default(place: str) -> None:
    listed = PARAMETERS[place]
    supplied = {"num_classes", "in_channels", "image_size", "patch", "size", "inner"}
    supplied |= {"in_features"}
    supplied |= {"task", "workers", "progress"} if place.endswith(":skin_phantom") else set()
    signature = inspect.signature(found_at(place)).parameters
    known = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in signature.items()
        if name not in supplied
    }
    written = zip(listed.column("parameter"), map(value, listed.column("default")), strict=True)
    assert {name.strip("`"): default for name, default in written} == known
    assert [name.strip("`") for name in listed.column("parameter")] == list(known)


def test_every_plugin_that_ships_has_its_parameters_listed() -> None:
    text = "".join((DOCS / page).read_text() for page in PAGES)
    ours = {
        plugin.value
        for plugin in registry_module.Registry().plugins()
        if plugin.distribution == "fedsim-medical"
    }
    assert ours <= set(OWNER.findall(text))
    for place in ours - set(PARAMETERS):
        assert not inspect.signature(found_at(place)).parameters, f"{place} has parameters"


@pytest.mark.parametrize("place", PARAMETERS)
def test_the_choices_of_a_parameter_are_listed(place: str) -> None:
    hints, listed = parameter_types(found_at(place)), PARAMETERS[place]
    for name, meaning in zip(listed.column("parameter"), listed.column("meaning"), strict=True):
        if get_origin(hint := hints[name.strip("`")]) is Literal:
            assert set(get_args(hint)) <= set(re.findall("`([^`]+)`", meaning)), name


# --- What a run leaves behind, and says ----------------------------------------------------------


def test_the_entries_of_the_run_folder_are_listed(workshop: Path) -> None:
    gdd = ["strategy={name: gdd, epochs: 1}", "rounds=1", "evaluation.on_clients=true"]
    client = "client={name: distill, images_per_class: 1, iterations: 1, width: 8}"
    folder = run("experiment.yaml", *gdd, client, runs=workshop / "folder").folder
    private = "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3}"
    supervised = "client={name: supervised, class_balanced: false, steps: 1}"
    protected = run("experiment.yaml", supervised, private, "strategy=fedavg", "rounds=1").folder
    volumes = (
        "data={name: msd, size: 32, embedded: {cases: 4}}",
        "model={name: unet, channels: [4, 8]}",
    )
    outlined = run(
        "experiment.yaml", *volumes, "client={name: segmentation, steps: 1}",
        "strategy=fedavg", "federation={clients: 2}", "rounds=1",
    ).folder  # fmt: skip
    own = ("strategy=local_only", "client={name: local, steps: 1}", "rounds=1")
    alone = run("experiment.yaml", *own, runs=workshop / "alone").folder
    asking = ("strategy=second_look.SecondLook", "client={name: second_look.Looks, steps: 1}")
    kept = run("experiment.yaml", *asking, "rounds=1", runs=workshop / "kept").folder
    scored = run("denoising.yaml", "rounds=1", runs=workshop / "scored").folder
    listed = table("scenarios.md", "file")
    files = {
        path.name + ("/" if path.is_dir() else "")
        for one in (folder, protected, outlined, alone, kept, scored)
        for path in one.iterdir()
    }
    assert files == {cell.strip("`") for cell in listed.column("file")}
    for name in ("run.json", "summary.json", "rounds.jsonl", "traffic.jsonl", "privacy.jsonl"):
        text = ((protected if name == "privacy.jsonl" else folder) / name).read_text()
        entries = json.loads(text if name.endswith(".json") else text.splitlines()[0])
        named = table("scenarios.md", "entry", f"`{name}`").names("entry")
        assert named == set(entries), name
    about = json.loads((folder / "run.json").read_text())["data"]
    (row,) = [r for r in table("scenarios.md", "entry", "`run.json`").rows if r[0] == "`data`"]
    assert set(about) <= set(re.findall("`([^`]+)`", row[1]))


def test_the_metrics_are_listed() -> None:
    scores = classification_metrics(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    named = {name for name in table("scenarios.md", "metric").names("metric") if "@" not in name}
    groups = {f"{name}/<group>" for name in ("balanced_accuracy", "accuracy")}
    of_volumes = {"dice", "dice_2d", "dice/<structure>", "jaccard"}
    assert named == set(scores) | groups | of_volumes | {"external_<metric>"}


def test_the_exit_codes_are_listed() -> None:
    codes = {v for name, v in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(cell.strip("`")) for cell in table("scenarios.md", "code").column("code")} == codes


def test_the_environment_variables_that_fedsim_reads_or_sets_are_named() -> None:
    page = (DOCS / "scenarios.md").read_text()
    use = re.compile(r"environ(?:\.get|\.setdefault)?[(\[]\s*\"(\w+)\"")
    used = {name for path in ROOT.glob("fedsim/**/*.py") for name in use.findall(path.read_text())}
    assert {"FEDSIM_DATA", "FEDSIM_CACHE", "MKL_CBWR"} <= used
    assert not {name for name in used if name not in page}


# --- Numbers of the method cards -----------------------------------------------------------------


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_the_settings_of_the_shipped_scenario_are_listed(profile: str) -> None:
    listed = table("methods/gdd.md", "setting")
    found = scenario.load("isic_noniid_gdd", [f"profile={profile}"]).resolved()
    for row in listed.rows:
        at: Any = found
        for key in row[0].strip("`").split("."):
            at = at[key]
        assert value(row[2 if profile == "paper" else 1]) == at, row[0]


def test_the_bytes_of_gdd_follow_the_formula() -> None:
    listed = table("methods/gdd.md", "images per class")
    for row in listed.rows:
        each = int(row[0])
        for codec in ("uint8", "float16", "float32"):
            first, *mebibytes = numbers(row[listed.header.index(f"`{codec}`")])
            count = image_bytes(10, 2, each, 224, codec)  # type: ignore[arg-type]
            assert first == count
            assert mebibytes in ([], [round(count / 2**20, 3)])
        assert numbers(row[-1])[0] == pytest.approx(image_bytes(10, 2, each, 224) / 2**20, rel=4e-3)


def test_the_bytes_of_fedavg_follow_the_formula() -> None:
    listed = table("methods/fedavg.md", "model")
    models = [
        SmallCNN(2, 3, 32),
        ConvNet(2, 3, 32, 64),
        ConvNet(2, 3, 224, 128),
        ResNet18(2, 3, 64),
    ]
    for row, model in zip(listed.rows, models, strict=True):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        a_round = 10 * 2 * 4 * parameters
        assert numbers(row[2]) == [parameters]
        assert numbers(row[3]) == [a_round]
        assert numbers(row[4]) == [round(15 * a_round / 1e6, 1)]
    whole = [12640 * unit / a_round for unit in (2**20, 1e6)]
    assert [f"{rounds:.1f}" for rounds in whole] == ["14.8", "14.1"]
    assert "14.8 in MiB, 14.1 in MB" in (DOCS / "methods/gdd.md").read_text()


def test_the_papers_f1_is_the_harmonic_mean_of_its_precision_and_recall() -> None:
    rows = [row for row in table("methods/gdd.md", "method").rows if row[4]]
    assert len(rows) == 5
    for row in rows:
        precision, recall, f1 = (numbers(row[column])[0] for column in (2, 3, 4))
        assert 2 * precision * recall / (precision + recall) == pytest.approx(f1, abs=0.011)


def test_some_precisions_of_the_paper_are_impossible() -> None:
    """Every confusion matrix of 58 or 59 positives among 3,314 with the printed recall."""
    marked = [row for row in table("methods/gdd.md", "method").rows if "impossible" in row[2]]
    assert len(marked) == 3
    for row in marked:
        printed = numbers(row[2])[0] / 100
        for positives in (58, 59):
            negatives = 3314 - positives
            right = round(numbers(row[3])[0] / 100 * 3314)
            found = np.arange(positives + 1)
            rejected = right - found
            benign = rejected / (rejected + positives - found)
            malignant = found / np.maximum(found + negatives - rejected, 1)
            weighted = (negatives * benign + positives * malignant) / 3314
            assert 0.95 < weighted.min() < weighted.max() < 0.99
            assert not weighted.min() <= printed <= weighted.max()


def test_instance_normalisation_hides_shifts_of_the_image() -> None:
    draws = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 128, 3, padding=1), torch.nn.GroupNorm(128, 128)
    )
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.uniform_(-1 / 27**0.5, 1 / 27**0.5, generator=draws)
        images = torch.randn(4, 3, 64, 64, generator=draws)
        plain = network(images)[:, :, 1:-1, 1:-1]

        def change(other: torch.Tensor) -> float:
            return float((network(other)[:, :, 1:-1, 1:-1] - plain).norm() / plain.norm())

        shift = torch.randn(1, 3, 1, 1, generator=draws)
        scales = torch.tensor([1.5, 1.0, 0.7]).view(1, 3, 1, 1)
        assert change(images + shift) == pytest.approx(0.04, abs=0.015)
        assert change(images * scales) == pytest.approx(0.30, abs=0.03)
        assert change(1.5 * images) < 1e-4


# --- Numbers of the data card --------------------------------------------------------------------


def test_the_stand_in_has_the_lesions_and_sites_that_the_card_says() -> None:
    plan = skin._plan(6000, 0.25, 5, 1.3, 1.0, 0)
    site = plan.site[plan.lesion]
    looks = list(skin.DIAGNOSES.values())
    malignant = np.array([look.malignant for look in looks])[plan.diagnosis][plan.lesion]
    listed = dict(table("data/skin.md", "what").rows)
    assert numbers(listed["lesions"]) == [plan.lesion.max() + 1]
    assert numbers(listed["malignant images"]) == [round(100 * malignant.mean(), 1)]
    sizes = np.bincount(site)
    assert listed["images of the five sites"] == ", ".join(f"{size:,}" for size in sizes)
    shares = 100 * np.bincount(site, malignant) / sizes
    assert numbers(listed["malignant at the five sites"]) == shares.round(1).tolist()


def test_ham10000_is_as_large_as_the_card_says(real_data: Path) -> None:
    records = HAM10000().manifest(real_data / "ham10000")
    for site, images, malignant in table("data/skin.md", "site").rows:
        here = np.array([name == site.strip("`") for name in records.sites])
        assert numbers(images) == [here.sum()]
        assert numbers(malignant) == [records.labels[here].sum()]
    listed = {row[0]: row for row in table("data/skin.md", "`data.name`").rows}["`ham10000`"]
    assert numbers(listed[1]) == [len(records.paths)]
    assert records.labels.sum() in numbers(listed[2])
    assert numbers(listed[3]) == [len(set(records.groups))]


# --- Names, links and commands -------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / page).read_text()):
        path, _, anchor = target.partition("#")
        file = (DOCS / page).parent / path if path else DOCS / page
        assert file.is_file(), target
        text = file.read_text() if file.suffix == ".md" else ""
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_are_named_exist(page: str) -> None:
    text = FENCE.sub("", (DOCS / page).read_text())
    for file in re.findall(r"`((?:fedsim|strategies|clients|docs)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file
    for dotted in re.findall(r"`(fedsim(?:\.\w+)+)(?::\w+)?`", text):
        if dotted.split(".")[1] in registry_module.GROUPS and dotted.count(".") == 1:
            continue  # a group of entry points
        module, _, name = dotted.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.util.find_spec(dotted), dotted


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_named_would_be_accepted(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    text = (DOCS / page).read_text()
    shell = "".join(block for language, block in blocks(page) if language == "sh")
    lines = [line.partition("#")[0] for line in shell.splitlines() if line.startswith("fedsim ")]
    lines += re.findall(r"`(fedsim [a-z][^`]*)`", FENCE.sub("", text))
    made = re.findall(r"fedsim new [a-z]+ (\w+)", text)
    if "fedsim pretrain" in text:
        made += re.findall(r"[\w-]+\.safetensors", text)
    for line in lines:
        verb, *words = shlex.split(line)[1:]
        with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as usage:
            main([verb, "--help"])
        for option in (word for word in words if word.startswith("--")):
            assert option in usage.getvalue(), line
        words = [word for word in words if word != "data.root=DIR"]
        # What the page itself makes has no name before.
        words = [word for word in words if word.partition("=")[2] not in made]
        if verb in ("run", "check") and words and words[0] in scenario.names():
            scenario.load(words[0], [word for word in words[1:] if "=" in word])
        elif verb == "compare":
            for drawn, keys in (("--over", 1), ("--matrix", 2)):
                if drawn in words:
                    at = words.index(drawn)
                    assert words[at + 1 + keys] == "--figure", line
                    del words[at : at + 3 + keys]
            known = {f"runs/{name}" for name in scenario.names()} | {"RUN", "..."}
            named = itertools.takewhile(lambda word: not word.startswith("--"), words)
            assert set(named) <= known, line
