"""Plugins are found by name or dotted path, and their parameters checked by signature."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from fedsim import registry as registry_module
from fedsim.clients.condist import ConDist
from fedsim.clients.segmentation import Segmentation
from fedsim.errors import InputError
from fedsim.registry import GROUPS, Registry, check_parameters, construct

if TYPE_CHECKING:
    from nowhere import Unknown


class Owner(NamedTuple):
    """What a distribution says of itself."""

    name: str
    version: str = "2.1"


class Average:
    """Averages what it is given.

    And more.
    """

    def __init__(self, rate: float, steps: PositiveInt = 1, mode: Literal["a", "b"] = "a") -> None:
        if rate == 0.5 and steps == 2:
            raise ValueError("rate 0.5 does not go with two steps")
        self.rate, self.steps, self.mode = rate, steps, mode


class NoDocstring(Average):
    pass


READY = Average(1.0)


def anything(width: int = 1, **others: Any) -> dict[str, Any]:
    return {"width": width, **others}


def many_types(
    share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    sizes: list[int] | None = None,
    pair: tuple[int, int] = (1, 1),
    either: int | str = 1,
    names: dict[str, int] | None = None,
    later: Unknown = None,
    flag: bool = False,
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013 - what the test is about
) -> dict[str, Any]:
    return dict(locals())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Makes a registry of the given (group, name, value, distribution)."""

    def make(*plugins: tuple[str, str, str, str]) -> Registry:
        found = EntryPoints(
            EntryPoint(name, value, f"fedsim.{group}")._for(  # type: ignore[attr-defined]
                Owner(owner)
            )
            for group, name, value, owner in plugins
        )
        monkeypatch.setattr(registry_module, "entry_points", lambda: found)
        return Registry()

    return make


HERE = __name__


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_a_name_resolves_to_what_is_registered(installed: Callable[..., Registry]) -> None:
    registry = installed(("strategies", "average", f"{HERE}:Average", "fedsim-extra"))
    assert registry.resolve("strategies", "average") is Average
    assert registry.names("strategies") == ["average"]
    assert registry.names("clients") == []


@pytest.mark.parametrize("path", [f"{HERE}:Average", f"{HERE}.Average"])
def test_a_dotted_path_needs_no_registration(path: str) -> None:
    assert Registry().resolve("clients", path) is Average


@pytest.mark.parametrize("separator", [".", ":"])
def test_flowers_own_strategies_resolve_by_dotted_path(separator: str) -> None:
    found = Registry().resolve("strategies", f"flwr.serverapp.strategy{separator}FedAvg")
    assert found.__name__ == "FedAvg"
    assert check_parameters(found, {"fraction_train": 1, "min_train_nodes": 2}) == []
    assert [key for key, _ in check_parameters(found, {"fraction_trian": 1})] == ["fraction_trian"]


def test_an_unknown_name_offers_the_nearest(installed: Callable[..., Registry]) -> None:
    registry = installed(("strategies", "average", f"{HERE}:Average", "fedsim-extra"))
    message = message_of(lambda: registry.resolve("strategies", "avarage"))
    assert "there is no strategy 'avarage' (did you mean 'average'?)" in message
    assert "fedsim plugins" in message


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (f"{HERE}:Avrage", "has no 'Avrage' (did you mean 'Average'?)"),
        ("no_such_package.part:Thing", "No module named 'no_such_package'"),
        ("importlib.metadata", "is a module"),
        ("a..b", "neither a strategy's name nor a dotted path"),
        (":Thing", "neither"),
        ("", "there is no strategy ''"),
    ],
)
def test_a_wrong_dotted_path_says_why(path: str, part: str) -> None:
    assert part in message_of(lambda: Registry().resolve("strategies", path))


def test_two_distributions_with_one_name_are_both_named(
    installed: Callable[..., Registry],
) -> None:
    registry = installed(
        ("models", "net", f"{HERE}:Average", "fedsim-one"),
        ("models", "net", f"{HERE}:NoDocstring", "fedsim-two"),
    )
    message = message_of(lambda: registry.resolve("models", "net"))
    assert "fedsim-one 2.1" in message
    assert "fedsim-two 2.1" in message
    assert len(registry.plugins()) == 2


def test_one_distribution_found_twice_counts_once(installed: Callable[..., Registry]) -> None:
    registry = installed(*[("models", "net", f"{HERE}:Average", "fedsim-one")] * 2)
    assert registry.resolve("models", "net") is Average


@pytest.mark.parametrize(
    ("code", "error", "line"),
    [
        ("a = 1\nb = a / 0\n", "ZeroDivisionError", 2),
        ("def f(:\n    pass\n", "SyntaxError", 1),
        ("import os\n\nimport no_such_module_x\n", "ModuleNotFoundError", 3),
        ("import sys\nsys.exit(3)\n", "SystemExit", 2),
    ],
)
def test_a_plugin_that_does_not_import_is_named_with_its_line(
    installed: Callable[..., Registry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: str,
    line: int,
) -> None:
    module = f"broken_{error.lower()}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    registry = installed(("clients", "broken", f"{module}:Client", "fedsim-broken"))
    message = message_of(lambda: registry.resolve("clients", "broken"))
    assert "client 'broken'" in message
    assert "fedsim-broken 2.1" in message
    assert f"{error}: " in message
    assert f"{tmp_path / module}.py:{line})" in message
    assert error in registry.plugins()[0].summary


def test_plugins_lists_all_and_imports_only_for_the_summary(
    installed: Callable[..., Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked_later.py").write_text('class M:\n    """A model."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    registry = installed(
        ("models", "later", "asked_later:M", "fedsim-one"),
        ("strategies", "plain", f"{HERE}:NoDocstring", "fedsim-one"),
        ("strategies", "average", f"{HERE}:Average", "fedsim-one"),
    )
    average, plain, later = registry.plugins()
    assert "asked_later" not in sys.modules
    assert (average.group, average.name, average.version) == ("strategies", "average", "2.1")
    assert later.summary == "A model."
    assert average.summary == "Averages what it is given."
    assert plain.summary == ""
    assert average.value == f"{HERE}:Average"


def test_an_unknown_group_is_a_mistake_in_the_code() -> None:
    with pytest.raises(ValueError, match="no group of plugins 'strategy'"):
        Registry().names("strategy")


def test_importing_the_registry_imports_no_heavy_library() -> None:
    code = (
        "import sys, fedsim.registry, fedsim.scenario; "
        "print(*({'torch', 'flwr', 'ray', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_right_parameters_give_no_problem() -> None:
    assert check_parameters(Average, {"rate": 1, "steps": 3, "mode": "b"}) == []


def test_all_wrong_parameters_are_reported_at_once() -> None:
    problems = dict(check_parameters(Average, {"step": 3, "steps": 0, "mode": "c"}))
    assert problems == {
        "step": "unknown key (did you mean 'steps'?)",
        "steps": "expected a number above 0, got 0",
        "mode": "expected 'a' or 'b', got 'c'",
        "rate": "required by Average, but missing",
    }


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("share", "1", "expected a number, got '1'"),
        ("share", True, "expected a number, got true"),
        ("share", 1.5, "expected at most 1, got 1.5"),
        ("share", 0, "expected a number above 0, got 0"),
        ("sizes", 3, "expected a list, got 3"),
        ("sizes", [1, "x"], "[1] expected a whole number, got 'x'"),
        ("pair", [1, 2, 3], "expected at most 2 item(s), got [1, 2, 3]"),
        ("either", [1], "expected a whole number or text, got [1]"),
        ("names", {"a": "b"}, "['a'] expected a whole number, got 'b'"),
        ("flag", "yes", "expected true or false, got 'yes'"),
        ("flag", None, "expected true or false, got null"),
        ("implicit", 1.0, "expected a whole number, got 1.0"),
    ],
)
def test_wrong_types_are_said_in_plain_words(parameter: str, value: Any, message: str) -> None:
    assert check_parameters(many_types, {parameter: value}) == [(parameter, message)]


def test_values_are_converted_only_where_nothing_is_guessed() -> None:
    made = construct(
        many_types,
        {
            "share": 1,
            "pair": [2, 3],
            "either": "3",
            "later": object,
            "implicit": None,
        },
    )
    assert isinstance(made["share"], float)
    assert made["pair"] == (2, 3)
    assert made["either"] == "3"
    assert made["later"] is object
    assert check_parameters(lambda loose=1: loose, {"loose": "x"}) == []


def test_supplied_parameters_are_not_missing_and_cannot_be_set() -> None:
    assert check_parameters(Average, {}, supplied=["rate"]) == []
    problems = check_parameters(Average, {"rate": 1.0}, supplied=["rate"])
    assert problems == [("rate", "is set by fedsim itself; remove it")]
    assert construct(Average, {"steps": 4}, rate=0.1).rate == 0.1


def test_known_names_are_offered_for_a_misspelt_key() -> None:
    problems = check_parameters(Average, {"rate": 1.0, "sise": 3}, known=["size"])
    assert problems == [("sise", "unknown key (did you mean 'size'?)")]


def test_further_keys_are_taken_where_the_signature_takes_them() -> None:
    assert construct(anything, {"width": 2, "other": 3}) == {"width": 2, "other": 3}
    assert check_parameters(anything, {"width": "2"}) != []


def test_a_partial_needs_what_is_left_open() -> None:
    assert check_parameters(functools.partial(Average, rate=1.0), {"steps": 2}) == []
    problems = dict(check_parameters(functools.partial(Average, steps=2), {"rate": "x"}))
    assert problems == {"rate": "expected a number, got 'x'"}


def test_a_ready_made_object_takes_no_parameters() -> None:
    assert check_parameters(READY, {}) == []  # type: ignore[arg-type]
    problems = check_parameters(READY, {"size": 1}, known=["init"])  # type: ignore[arg-type]
    assert problems == [("size", "unknown key: Average takes no parameters")]


def test_inherited_constructors_are_checked_alike() -> None:
    assert check_parameters(NoDocstring, {"rate": "x"}) == [("rate", "expected a number, got 'x'")]


def test_an_error_of_the_constructor_is_put_to_the_parameter_it_names() -> None:
    with pytest.raises(InputError) as caught:
        construct(Average, {"steps": 2, "rate": 0.5})
    (problem,) = caught.value.problems
    assert problem.where == "rate"
    assert problem.message == "rate 0.5 does not go with two steps"
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_mistake_in_the_constructor_is_shown_with_its_line() -> None:
    def careless(rate: float) -> float:
        return rate / 0

    with pytest.raises(InputError) as caught:
        construct(careless, {"rate": 1.0})
    (problem,) = caught.value.problems
    assert "ZeroDivisionError" in problem.message
    assert f"{__file__}:" in problem.message


def test_build_resolves_checks_and_constructs(installed: Callable[..., Registry]) -> None:
    registry = installed(("strategies", "average", f"{HERE}:Average", "fedsim-extra"))
    assert registry.build("strategies", "average", {"steps": 3}, rate=1.0).steps == 3
    with pytest.raises(InputError, match="Average cannot be constructed"):
        registry.build("strategies", "average", {})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
PARAMETERS = ["share", "sizes", "pair", "either", "names", "later", "flag", "implicit"]


@given(st.dictionaries(st.sampled_from([*PARAMETERS, "other"]), VALUES))
def test_any_value_is_checked_without_a_crash(parameters: dict[str, Any]) -> None:
    problems = check_parameters(many_types, parameters)
    assert {key for key, _ in problems} <= set(parameters)
    assert all("\n" not in message and message for _, message in problems)
    if problems:
        with pytest.raises(InputError):
            construct(many_types, parameters)
    else:
        construct(many_types, parameters)


def test_every_group_has_a_word() -> None:
    plugins = {"strategies", "clients", "datasets", "models", "partitions"}
    assert set(GROUPS) == plugins | {"wrappers", "adversaries", "observers"}


Whole = PositiveInt  # A name that the module of the base class does not have.


class FewSteps(Segmentation):
    """Derives from a dataclass, and has a constructor of its own."""

    def __init__(self, steps: Whole = 3) -> None:
        super().__init__(steps=steps)


def test_a_class_that_derives_from_a_dataclass_is_checked_by_its_own_types() -> None:
    assert "whole number" in dict(check_parameters(FewSteps, {"steps": "abc"}))["steps"]
    assert "above 0" in dict(check_parameters(ConDist, {"clip": -1}))["clip"]
