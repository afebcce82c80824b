"""A scenario is read with all its problems at once, each with its line."""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from fedsim import scenario as scenario_module
from fedsim.errors import InputError
from fedsim.scenario import Scenario, activate_plugins, load

HERE = __name__


class Average:
    """A strategy."""

    def __init__(self, rate: float = 1.0, steps: int = 1) -> None:
        if rate > 100 * steps:
            raise ValueError("rate is too high for so few steps")


class Robust:
    """Another strategy."""

    def __init__(self, *, trim: Annotated[float, Field(ge=0, lt=0.5)]) -> None:
        self.trim = trim


class Trainer:
    """A client."""

    def __init__(self, epochs: int = 1, **others: Any) -> None:
        self.epochs = epochs


class Net:
    """A model."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int = 8):
        raise AssertionError("a model is not made before the data are known")


class Anyhow:
    """A partition."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha


class Pictures:
    """A data set."""

    def __init__(self, task: str = "binary") -> None:
        self.task = task

    @staticmethod
    def embedded(size: int, task: str, images: int = 10, seed: int = 0) -> None:
        """Generates nothing."""


class OnlyOnDisk:
    """A data set without a stand-in."""

    embedded = None


TEXT = f"""\
# A small scenario (tldr)
# Paper: none.

name: small
seeds: [0, 1]
rounds: 2
data:
  name: {HERE}:Pictures
  size: 16
  embedded:
    images: 20
federation:
  clients: 4
  partition:
    name: {HERE}:Anyhow
    alpha: 1e-1
model: {HERE}:Net
strategy:
  name: {HERE}:Average
  rate: 1e-3
client: {HERE}:Trainer
profile: default
profiles:
  quick:
    rounds: 1
    data: {{size: 8}}
    strategy.rate: 2
  robust:
    strategy: {{name: "{HERE}:Robust", trim: 0.1}}
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def small(write: Callable[[str], str]) -> str:
    return write(TEXT)


def refused(path: str, overrides: Sequence[str] = ()) -> InputError:
    """The error of loading a scenario."""
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    return caught.value


def problems(path: str, *overrides: str, seed: int | None = None) -> list[tuple[str, str]]:
    """Where (without the file's path) and what, of all problems."""
    with pytest.raises(InputError) as caught:
        load(path, overrides, seed)
    assert caught.value.exit_code == 2
    assert caught.value.problems
    return [(p.where.replace(path, "file"), p.message) for p in caught.value.problems]


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


# --- what is read


def test_a_scenario_is_read_with_its_defaults(small: str) -> None:
    scenario = load(small)
    assert scenario.seeds == (0, 1)
    assert scenario.data.size == 16
    assert scenario.data.embedded == {"images": 20}
    assert scenario.data_root() is None
    assert scenario.federation.partition.parameters == {"alpha": 0.1}
    assert scenario.strategy.parameters == {"rate": 0.001}
    assert scenario.model.name == f"{HERE}:Net"
    assert scenario.model.parameters == {}
    assert scenario.resources.backend == "auto"
    assert scenario.evaluation.select == "last"
    split = {"val": 0.1, "test": 0.1, "seed": 0, "folds": None, "fold": 0, "fraction": 1.0}
    assert scenario.data.split.model_dump() == split
    assert scenario.privacy is None
    assert scenario.path == Path(small)


def test_a_scenario_is_frozen_and_pickles(small: str) -> None:
    scenario = load(small)
    with pytest.raises(ValueError, match="frozen"):
        scenario.rounds = 3  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(scenario))
    assert copy.resolved() == scenario.resolved()
    assert copy.path == scenario.path


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), ("-2.e+1", -20.0), (".5e1", 5.0), ("1.5", 1.5), ("3", 3)],
)
def test_numbers_with_an_exponent_are_numbers(small: str, text: str, value: float) -> None:
    assert load(small, [f"client.rate={text}"]).client.parameters["rate"] == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("010", "is read as the octal number 8: write 8, or '010' in quotes for text"),
        ("-017", "is read as the octal number -15: write -15"),
        ("1:30", "is read as the number 90, to the base of 60: write '1:30' in quotes"),
        ("1:30.5", "is read as the number 90.5, to the base of 60"),
        ("1_000", "is read as the number 1000: write 1000"),
        ("1_0.5", "is read as the number 10.5: write 10.5"),
        ("no", "is read as false: write false, or 'no' in quotes for text"),
        ("Yes", "is read as true: write true"),
        ("ON", "is read as true: write true"),
        ("off", "is read as false: write false"),
        ("2024-01-02", "is read as a date: write '2024-01-02' in quotes"),
        ("2024-01-02 10:00:00", "is read as a date"),
    ],
)
def test_what_yaml_reads_as_something_else_is_said_everywhere(
    write: Callable[[str], str], small: str, text: str, says: str
) -> None:
    places = [f"client.free={text}", f"client.free=[1, {text}]", f"client.free={{a: {text}}}"]
    places.append(f"client.free={{{text} : 1}}")
    for override in places:
        problems = refused(small, [override]).problems
        assert any(f"{text} {says}" in str(problem) for problem in problems), override
    assert load(small, [f"client.free='{text}'"]).client.parameters["free"] == text
    file = write(TEXT + f"description: {text}\n")
    problem = refused(file).problems[0]
    assert f"{text} {says}" in problem.message
    assert problem.where.endswith(f".yaml:{len(TEXT.splitlines()) + 1}")


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("0x1F", 31), ("true", True), ("09", "09")])
def test_what_is_read_as_it_looks_stays(small: str, text: str, value: object) -> None:
    assert load(small, [f"client.free={text}"]).client.parameters["free"] == value


def test_merge_keys_and_tags_are_refused(write: Callable[[str], str], small: str) -> None:
    text = TEXT.replace("client: ", "client:\n  <<: {more: 1}\n  more: 2\n  name: ")
    assert "'<<' merges another block here" in str(refused(write(text)))
    for tagged in ("!!set {a}", "!!omap [a: 1]", "!!binary aGk="):
        assert "tags are not read" in str(refused(small, [f"client.free={tagged}"])), tagged


def _bomb(opening: str, repeat: str, closing: str) -> str:
    lines = [f"a0: &a0 {opening}1{closing}"]
    for level in range(1, 12):
        inner = ",".join(repeat.format(f"*a{level - 1}", number) for number in range(9))
        lines.append(f"a{level}: &a{level} {opening}{inner}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "bomb",
    [
        _bomb("[", "{0}", "]"),
        _bomb("[", "{{k: {0}}}", "]"),
        _bomb("{k: [", "{0}", "]}"),
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "a: " + "[" * 5000,
        "a: " + "{b: " * 5000,
        "- " * 5000,
        "a: [" + "1," * 100_000 + "]",
        "#" * 2_000_000,
        "? " * 3000 + "a",
    ],
    ids=[
        "lists",
        "blocks",
        "both",
        "self",
        "merge",
        "deep",
        "deeper",
        "dashes",
        "long",
        "huge",
        "?",
    ],
)
def test_documents_that_grow_without_end_are_refused_at_once(
    write: Callable[[str], str], small: str, bomb: str
) -> None:
    assert len(str(refused(write(TEXT + bomb + "\n"))).splitlines()) < 40
    value = "{" + bomb.replace("\n", ", ") + "}"
    assert len(str(refused(small, [f"client.free={value}"])).splitlines()) < 40


def test_an_alias_is_a_copy(write: Callable[[str], str]) -> None:
    text = TEXT.replace("profile: default", "profile: b") + "  a: &a {rounds: 3}\n  b: *a\n"
    assert load(write(text)).rounds == 3


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "huge"])
def test_a_scenario_that_is_no_file_is_refused_and_not_waited_for(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    with socket.socket(socket.AF_UNIX) as one:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            one.bind(os.path.relpath(path))
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(10**10)
        assert f"cannot read the scenario {path}" in str(refused(str(path)))


def test_a_pipe_is_no_file_of_weights_and_no_data(small: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is no file" in str(refused(small, [f"model.init={tmp_path / 'pipe'}"]))
    assert "there is no folder" in str(refused(small, [f"data.root={tmp_path / 'pipe'}"]))


# --- problems


def test_all_problems_come_at_once_with_their_lines(write: Callable[[str], str]) -> None:
    text = (
        TEXT.replace("rounds: 2", "rounds: ten\nroundz: 3")
        .replace("size: 16", "sise: 16")
        .replace("rate: 1e-3", "rate: fast\n  stepz: 1")
        .replace("clients: 4", "clients: 0")
        .replace("images: 20", "image: 20")
    )
    found = problems(write(text))
    for part, message in [
        ("rounds: ten", "rounds: expected a whole number, got 'ten'"),
        ("roundz", "roundz: unknown key (did you mean 'rounds'?)"),
        ("sise", "data.sise: unknown key (did you mean 'size'?)"),
        ("clients: 0", "federation.clients: expected at least 1, got 0"),
        ("rate: fast", "strategy.rate: expected a number, got 'fast'"),
        ("stepz", "strategy.stepz: unknown key (did you mean 'steps'?)"),
    ]:
        assert (f"file:{line_of(text, part)}", message) in found
    line = line_of(text, "image: 20")
    assert (f"file:{line}", "data.embedded.image: unknown key (did you mean 'images'?)") in found
    assert len(found) == 7
    assert [int(where.split(":")[1]) for where, _ in found] == sorted(
        int(where.split(":")[1]) for where, _ in found
    )


def test_keys_of_the_stand_in_are_checked(write: Callable[[str], str]) -> None:
    text = TEXT.replace("images: 20", "image: 20\n    size: 3\n    task: x")
    assert len(problems(write(text), "data.task=3")) == 4
    messages = dict(problems(write(text)))
    line = line_of(text, "image: 20")
    assert messages[f"file:{line}"] == "data.embedded.image: unknown key (did you mean 'images'?)"
    for further in (1, 2):
        assert messages[f"file:{line + further}"].endswith("is set by fedsim itself; remove it")


def test_keys_of_the_stand_in_are_ignored_with_data_on_disk(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "data" / "something").mkdir(parents=True)
    path = write(TEXT.replace("images: 20", "unheard: 20"))
    assert problems(path)
    assert load(path, [f"data.root={tmp_path / 'data'}"]).data_root() == tmp_path / "data"


def test_missing_keys_point_at_the_block_around_them(write: Callable[[str], str]) -> None:
    text = TEXT.replace(f"  name: {HERE}:Pictures\n", "").replace("name: small\n", "")
    assert problems(write(text)) == [
        (f"file:{line_of(text, 'seeds')}", "name: required, but missing"),
        (f"file:{line_of(text, 'data:')}", "data.name: required, but missing"),
    ]


def test_a_required_parameter_that_is_missing_is_a_problem(write: Callable[[str], str]) -> None:
    text = TEXT.replace(f"name: {HERE}:Average\n  rate: 1e-3", f"name: {HERE}:Robust")
    text = text.replace("    strategy.rate: 2\n", "")
    where, message = problems(write(text))[0]
    assert where == f"file:{line_of(text, 'strategy:')}"
    assert message == "strategy.trim: required by Robust, but missing"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds=0", "rounds: expected at least 1, got 0"),
        ("rounds=1.5", "rounds: expected a whole number, got 1.5"),
        ("rounds=true", "rounds: expected a whole number, got true"),
        ("seeds=[]", "seeds: expected at least one seed, and each only once"),
        ("seeds=[1, 1]", "seeds: expected at least one seed, and each only once"),
        ("seeds=[-1]", "seeds.0: expected at least 0, got -1"),
        ("seeds=3", "seeds: expected a list, got 3"),
        ("name=../up", "name: expected letters, digits, '_', '-' and '.', first a letter or "),
        ("data=x", "data: expected a block of keys, got 'x'"),
        ("data.size=7", "data.size: expected at least 8, got 7"),
        ("data.sise=64", "data.sise: unknown key (did you mean 'size'?)"),
        ("data.split.val=0.95", "data.split: val and test together must be below 1"),
        ("data.split.vall=0", "data.split.vall: unknown key (did you mean 'val'?)"),
        ("federation.participation=0", "federation.participation: expected a number above 0, "),
        ("federation.participation=0.2", "federation.participation: 0.2 of 4 clients is less "),
        ("privacy={epsilon: 8}", "privacy.epsilon: unknown key"),
        ("privacy.target_epsilon=0", "privacy.target_epsilon: expected at least 0.0001, got 0"),
        ("privacy.delta=1", "privacy.delta: expected a number below 1, got 1"),
        ("privacy={delta: 1e-5}", "privacy: expected one of target_epsilon and noise_multiplier"),
        (
            "privacy={target_epsilon: 1, noise_multiplier: 1}",
            "privacy: expected one of target_epsilon and noise_multiplier",
        ),
        (
            "privacy={target_epsilon: 1, filter: {reference: previous}}",
            "privacy.filter.reference: expected 'private', 'alternating' or 'paper_unsound'",
        ),
        ("evaluation.select=best", "evaluation.select: expected 'last' or 'pooled_val', got 'b"),
        ("evaluation.external={}", "evaluation.external: expected one of sites and root"),
        (
            "evaluation.external={sites: [a], root: .}",
            "evaluation.external: expected one of sites and root",
        ),
        ("evaluation.external.root=nowhere", "evaluation.external.root: "),
        (
            "resources.backend=rey",
            "resources.backend: expected 'auto', 'inline' or 'ray', got 'rey'",
        ),
        ("resources.gpus=.inf", "resources.gpus: expected 'auto' or a finite number, got inf"),
        ("resources.gpus=.nan", "resources.gpus: expected 'auto' or a finite number, got nan"),
        ("rounds=.inf", "rounds: expected a whole number, got inf"),
        ("rounds=1e20", "rounds: expected a whole number, got 1e+20"),
        (f"rounds={10**20}", "rounds: expected at most 1000000000, got "),
        ("data.size=1e20", "data.size: expected a whole number, got 1e+20"),
        (f"data.size={10**20}", "data.size: expected at most 16384, got "),
        (f"rounds={'9' * 99}", "expected a number of at most 256 bits, got 999"),
        (
            "faults.on_client_error=go",
            "faults.on_client_error: expected 'stop' or 'skip', got 'go'",
        ),
        ("profile=quik", "profile: there is no profile 'quik' (did you mean 'quick'?)"),
        ("profiles.default={}", "profiles.default: this is the file without a profile"),
        ("profiles.quick=3", "profiles.quick: expected a block of keys, got 3"),
        ("strategy.rate=101", "strategy.rate: rate is too high for so few steps"),
        (f"strategy.name={HERE}:Averag", f"strategy.name: strategy '{HERE}:Averag': "),
        ("strategy.name=3", "strategy.name: expected text, got 3"),
        ("strategy.name=fedavgg", "strategy.name: there is no strategy 'fedavgg'"),
        ("model.num_classes=2", "model.num_classes: is set by fedsim itself; remove it"),
        ("model.widht=2", "model.widht: unknown key (did you mean 'width'?)"),
        ("strategy.rate=.inf", "strategy.rate: expected a finite number"),
        ("strategy.rate=.nan", "strategy.rate: expected a finite number, got nan"),
        ("strategy.rate=1e400", "strategy.rate: expected a finite number"),
        ("data.embedded.images=.nan", "data.embedded.images: expected a whole number, got nan"),
        (
            "profiles.quick.rounds=.nan",
            "profiles.quick.rounds: expected a finite number, got nan",
        ),
        ("profiles.x.client.y=[1, .nan]", "profiles.x.client.y.1: expected a finite number, got n"),
        ("strategy.rate=1e300", "strategy.rate: expected a number below 3.4e+38"),
        (f"data.embedded.images={2**63}", "data.embedded.images: expected a number below "),
        ("privacy.noise_multiplier=1e300", "privacy.noise_multiplier: expected at most 1e+06"),
        ("privacy={noise_multiplier: 1e-300}", "privacy.noise_multiplier: expected 0, for none"),
        ("privacy.target_epsilon=1e-9", "privacy.target_epsilon: expected at least 0.0001"),
        ("privacy.max_grad_norm=1e300", "privacy.max_grad_norm: expected at most 1e+10"),
        ("model.init=no.safetensors", "model.init: there is no file "),
        (
            "model.init=package:a/b",
            "model.init: 'package:a/b' names no file of a package; the form",
        ),
        ("data.root=no/where", "data.root: there is no folder "),
        ("plugins=[no/where]", "plugins: there is no folder "),
        ("plugins=3", "plugins: expected a list, got 3"),
        ("rounds.x=3", "rounds.x: rounds has no keys of its own: write rounds=..."),
        ("seeds.0=3", "seeds.0: seeds has no keys of its own: write seeds=..."),
        ("rounds", "expected key=value or key.sub=value"),
        ("a..b=3", "expected key=value or key.sub=value"),
        ("=3", "expected key=value or key.sub=value"),
        ("data.root=", "a value is missing after '='; for none: data.root=null"),
        ("rounds=[1", "the value is not YAML: "),
        ("federation={clients: 1, clients: 2}", "'clients' is already set"),
    ],
)
def test_a_wrong_override_names_itself(small: str, override: str, message: str) -> None:
    ((where, found),) = problems(small, override)
    assert where == f"command line ({override})"
    assert found.startswith(message)


def test_problems_of_file_and_command_line_come_together(write: Callable[[str], str]) -> None:
    found = problems(write(TEXT.replace("rounds: 2", "rounds: 0")), "data.sise=64", "nonsense")
    assert [where for where, _ in found] == [
        "file:6",
        "command line (nonsense)",
        "command line (data.sise=64)",
    ]


def test_a_number_that_is_not_finite_names_its_line(write: Callable[[str], str]) -> None:
    faults = "faults: {dropout: .inf, delay: .nan}\n"
    path = write(TEXT.replace("rounds: 2\n", f"rounds: .nan\n{faults}"))
    assert problems(path) == [
        ("file:6", "rounds: expected a whole number, got nan"),
        ("file:7", "faults.dropout: expected a finite number, got inf"),
        ("file:7", "faults.delay: expected a finite number, got nan"),
    ]


def test_a_key_that_is_written_twice_names_both_lines(write: Callable[[str], str]) -> None:
    path = write(TEXT.replace("rounds: 2\n", "rounds: 2\nrounds: 3\n"))
    assert problems(path) == [("file:7", "'rounds' is already set in line 6")]


def test_a_key_that_is_no_text_is_a_problem(write: Callable[[str], str]) -> None:
    path = write(TEXT + "on: 3\n")
    ((where, message),) = problems(path)
    assert where == f"file:{TEXT.count(chr(10)) + 1}"
    assert "a key must be text, not true" in message


@pytest.mark.parametrize(
    ("text", "where", "part"),
    [
        ("name: [1", "file:1:9", "flow sequence"),
        ("name: x\n\trounds: 3", "file:2:1", "a tab stands here"),
        ("name: x: y", "file:1:8", "mapping values are not allowed"),
        ("name: !!python/object:os.system x", "file:1:7", "could not determine a constructor"),
        ("name: x\nwhen: 2024-13-45", "file:2:7", "cannot be read as timestamp"),
        ("name: x\nrate: " + "9" * 99, "file:2:7", "expected a number of at most 256 bits"),
        ("name: x\nrate: " + "9" * 5000, "file:2:7", "99... cannot be read as int"),
        ("name: x\n.nan: 3", "file:2:1", "a key must be text, not .nan"),
        ("name: &a [*a]", "file:1:7", "contains itself"),
        ("name: " + "[" * 5000, "file:1:1", "blocks inside blocks"),
        ("name: " + "[" * 80 + "]" * 80, "file:1:57", "more than 50 blocks deep"),
        ("a: 1\nb: \x07", "file:2:4", "character U+0007"),
        ("? [1]\n: 2", "file:1:3", "a key must be text"),
        ("a: 1\n---\nb: 2", "file:2:1", "document"),
        ("- 1", "file:1", "key: value"),
        ("", "file:1", "key: value"),
        ("just text", "file:1", "key: value"),
    ],
)
def test_what_is_not_yaml_is_one_clear_problem(
    write: Callable[[str], str], text: str, where: str, part: str
) -> None:
    ((found, message),) = problems(write(text))
    assert found == where
    assert part in message


def test_unreadable_files_are_wrong_input(tmp_path: Path, write: Callable[[str], str]) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    for path in ("latin.yaml", "none.yaml", "."):
        with pytest.raises(InputError, match="cannot read the scenario"):
            load(tmp_path / path)


# --- overrides and profiles


def test_the_command_line_wins_over_the_profile_over_the_file(small: str) -> None:
    assert load(small).rounds == 2
    quick = load(small, ["profile=quick"])
    assert (quick.rounds, quick.data.size) == (1, 8)
    assert quick.data.embedded == {"images": 20}
    assert quick.strategy.parameters == {"rate": 2}
    assert load(small, ["rounds=7", "profile=quick"]).rounds == 7
    assert load(small, ["rounds=7", "rounds=8"]).rounds == 8


def test_a_profile_may_be_selected_in_the_file(write: Callable[[str], str]) -> None:
    path = write(TEXT.replace("profile: default", "profile: quick"))
    assert load(path).rounds == 1
    assert load(path, ["profile=default"]).rounds == 2
    assert load(path, ["profiles.quick.rounds=5"]).rounds == 5


def test_a_profile_with_another_plugin_replaces_the_block(small: str) -> None:
    assert load(small, ["profile=robust"]).strategy.parameters == {"trim": 0.1}


def test_a_profile_may_be_on_the_command_line(small: str) -> None:
    assert load(small, ["profiles={wide: {rounds: 7}}", "profile=wide"]).rounds == 7
    (problem,) = problems(small, "profiles={wide: {zzz: 7}}", "profile=wide")
    assert problem[0] == "command line (profiles={wide: {zzz: 7}})"
    assert problem[1].startswith("zzz: unknown key")
    (problem,) = problems(small, "profiles={wide: {profile: x}}", "profile=wide")
    assert problem[1] == "a profile cannot set 'profile'"


def test_a_problem_in_a_profile_has_the_profiles_line(write: Callable[[str], str]) -> None:
    text = TEXT.replace("data: {size: 8}", "data:\n      size: 7\n    profile: x")
    assert problems(write(text), "profile=quick") == [
        (f"file:{line_of(text, 'size: 7')}", "data.size: expected at least 8, got 7"),
        (f"file:{line_of(text, 'profile: x')}", "a profile cannot set 'profile'"),
    ]


def test_another_plugin_does_not_inherit_parameters_silently(small: str) -> None:
    found = dict(problems(small, f"strategy.name={HERE}:Robust", "strategy.trim=0.2"))
    (message,) = found.values()
    assert message.startswith("strategy.rate: unknown key of Robust (valid: trim)")
    assert f"strategy={{name: {HERE}:Robust}}" in message
    whole = load(small, [f"strategy={{name: '{HERE}:Robust', trim: 0.2}}"])
    assert whole.strategy.parameters == {"trim": 0.2}


def test_a_plain_name_stands_for_a_block(small: str) -> None:
    scenario = load(small, [f"strategy={HERE}:Average", "strategy.steps=3", "model.width=4"])
    assert scenario.strategy.parameters == {"steps": 3}
    assert scenario.model.parameters == {"width": 4}


def test_seed_keeps_one_seed(small: str) -> None:
    assert load(small, ["seeds=[4, 5]"], seed=3).seeds == (3,)
    ((where, _),) = problems(small, seed=-1)
    assert where == "command line (--seed -1)"


# --- folders


def test_data_on_disk_must_be_a_filled_folder(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    ((_, message),) = problems(small, "data.root=images")
    assert message == f"data.root: the folder {folder} is empty"
    (folder / "one.jpg").touch()
    assert load(small, ["data.root=images"]).data.root == str(folder)


def test_fedsim_data_is_used_unless_a_root_is_written(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    folder = base / f"{HERE}:Pictures"
    base.mkdir()
    monkeypatch.setenv("FEDSIM_DATA", str(base))
    assert load(small).data.root is None
    folder.mkdir()
    ((where, message),) = problems(small)
    assert where == f"environment variable FEDSIM_DATA ({base})"
    assert message == f"the folder {folder} is empty"
    (folder / "one.jpg").touch()
    assert load(small).data.root == str(folder)
    assert load(small, ["data.root=null"]).data.root is None
    assert load(small, [f"data.root={base}"]).data.root == str(base)


def test_fedsim_data_that_is_no_folder_is_a_problem(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "none"))
    ((where, _),) = problems(small)
    assert "FEDSIM_DATA" in where


def test_what_ran_on_the_stand_in_runs_on_it_again(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(load(small).to_yaml())
    (tmp_path / "base" / f"{HERE}:Pictures" / "x").mkdir(parents=True)
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "base"))
    assert load(again).data.root is None


def test_a_data_set_without_a_stand_in_needs_a_root(small: str, tmp_path: Path) -> None:
    change = f"data={{name: '{HERE}:OnlyOnDisk'}}"
    ((_, message),) = problems(small, change)
    assert message.startswith("data.root: missing: this data set has no embedded stand-in")
    assert load(small, [change, f"data.root={tmp_path}"]).data.root == str(tmp_path)


def test_first_weights_are_found_from_here(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    scenario = load(small, ["model.init=w.safetensors"])
    assert scenario.model.init == str(tmp_path / "w.safetensors")
    assert scenario.model.parameters == {}


@pytest.mark.parametrize("word", ["dinov2_vits14", "package:some==1.0/in/it.pt"])
def test_names_of_weights_and_packages_stay_as_they_are(
    word: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dinov2_vits14").touch()  # A name wins over a file.
    assert load(small, [f"model.init={word}"]).model.init == word
    if "/" not in word:
        assert load(small, [f"model.init=./{word}"]).model.init == str(tmp_path / word)


def test_random_first_weights_are_none(small: str) -> None:
    assert load(small, ["model.init=random"]).resolved() == load(small).resolved()


def test_a_name_that_is_no_weights_gets_the_nearest(small: str) -> None:
    ((_, message),) = problems(small, "model.init=dinov2_vits")
    assert message.endswith("no pretrained weights 'dinov2_vits' (did you mean 'dinov2_vits14'?)")


def test_plugin_folders_are_relative_to_the_file(
    write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine_alone.py").write_text("class Mine:\n    def __init__(self, a: int): ...\n")
    text = TEXT.replace("profile: default", "plugins: [mine]") + "\n"
    path = write(text)
    scenario = load(path, ["client={name: mine_alone.Mine, a: 1}"])
    assert scenario.plugins == (str(folder),)
    ((_, message),) = problems(path, "client={name: mine_alone.Mine, a: x}")
    assert message == "client.a: expected a whole number, got 'x'"
    sys.path.remove(str(folder))
    activate_plugins(scenario)
    activate_plugins(scenario)
    assert sys.path.count(str(folder)) == 1


def test_a_module_in_the_way_of_a_plugin_is_a_problem(small: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("class Mine: ...\n")
    ((where, message),) = problems(small, f"plugins=[{tmp_path}]", "client=json.Mine")
    assert where == "command line (client=json.Mine)"
    assert f"not the one in {tmp_path}; rename yours" in message


# --- writing


def test_the_resolved_scenario_runs_again_from_anywhere(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    overrides = ["profile=quick", f"plugins=[{tmp_path}]", "model.init=w.safetensors"]
    scenario = load(small, overrides)
    again = tmp_path / "folder" / "scenario.yaml"
    again.parent.mkdir()
    again.write_text(scenario.to_yaml())
    monkeypatch.chdir("/")
    resolved = load(again).resolved()
    assert resolved == scenario.resolved()
    assert resolved["profile"] == "quick"
    assert resolved["profiles"] == {"quick": {}}
    assert set(resolved) == set(Scenario.model_fields)
    assert resolved["seeds"] == [0, 1]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["1e-3", "1e5", "yes", "null", "~", "0x1", "1_000", "2024-01-02", "=", "<<"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(values=st.dictionaries(st.text(min_size=1, max_size=6), VALUES, max_size=3))
def test_any_parameters_survive_writing_and_reading(small: str, values: dict[str, Any]) -> None:
    values = {key: value for key, value in values.items() if key not in ("name", "epochs")}
    before = load(small)
    scenario = before.model_copy(
        update={"client": before.client.model_validate({"name": f"{HERE}:Trainer", **values})}
    )
    again = Path(small).with_name("again.yaml")
    again.write_text(scenario.to_yaml(), encoding="utf-8")
    assert load(again).resolved() == scenario.resolved()
    assert load(again).client.parameters == values


KEYS = st.sampled_from(
    [*scenario_module.Scenario.model_fields, "name", "size", "x", "root", "init"]
)
OVERRIDES = st.builds(
    lambda keys, value: f"{'.'.join(keys)}={value}",
    st.lists(KEYS, min_size=1, max_size=3),
    VALUES.map(repr) | st.text(max_size=10) | VALUES.map(lambda v: f"{{name: {v!r}}}"),
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(overrides=st.lists(OVERRIDES | st.text(max_size=12), max_size=4))
@example(overrides=["profile=quick", "profiles=null"])
@example(overrides=["profiles.quick.strategy.a.b=1", "profile=quick"])
@example(overrides=["federation.partition=null", "data=null", "model=3"])
@example(overrides=["rounds=!!bool x", "seeds=!!set {1, 2}", "strategy.rate=!!binary '%'"])
@example(overrides=["federation.clients=" + "9" * 5000])
@example(overrides=["federation.participation=1" + "0" * 400])
@example(overrides=["rounds=0x" + "f" * 5000, "strategy.rate=1" + "0" * 70])
@example(overrides=["federation={clients: 1" + "0" * 70 + ", participation: 1e-320}"])
def test_any_override_is_taken_or_refused_in_words(small: str, overrides: list[str]) -> None:
    try:
        scenario = load(small, overrides)
    except InputError as error:
        assert error.problems
        assert len(str(error).splitlines()) <= 40
    else:
        assert scenario.to_yaml()


# --- built-in scenarios


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "small.yaml").write_text(TEXT)
    (folder / "plain.yaml").write_text("name: plain\n")
    spec = importlib.util.spec_from_file_location(
        "fedsim.scenarios", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    monkeypatch.setitem(sys.modules, "fedsim.scenarios", importlib.util.module_from_spec(spec))
    return folder


def test_built_in_scenarios_are_found_by_name(built_in: Path) -> None:
    assert scenario_module.names() == ["plain", "small"]
    assert scenario_module.source("small") == TEXT
    assert scenario_module.header("small") == ["A small scenario (tldr)", "Paper: none."]
    assert scenario_module.headline("small") == "A small scenario (tldr)"
    assert scenario_module.headline("plain") == ""
    assert load("small").path == built_in / "small.yaml"


def test_an_unknown_name_offers_the_nearest(built_in: Path) -> None:
    with pytest.raises(InputError, match=r"no scenario 'smal' .did you mean 'small'") as caught:
        load("smal")
    assert "fedsim ls" in caught.value.hint


def test_without_installation_there_are_no_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fedsim.scenarios", None)
    with pytest.raises(InputError, match="not installed"):
        scenario_module.names()


def test_loading_a_scenario_imports_no_torch(small: str) -> None:
    code = f"import sys, fedsim.scenario as s; s.load({small!r}); print('torch' in sys.modules)"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "False"


def test_a_seed_is_one_that_the_runs_own_file_can_be_read_with() -> None:
    largest = 2**256 - 1
    assert load("isic_iid_fedavg", seed=largest).seeds == (largest,)
    with pytest.raises(InputError, match=r"seeds\.0: expected "):
        load("isic_iid_fedavg", seed=largest + 1)
