"""Checks of a plugin against what fedsim asks of its kind: for pytest, and for `check-plugin`.

    from fedsim.testing import strategy_checks
    test_contract = strategy_checks("shy_mean.strategy:ShyMean", max_norm=0.5)

makes one test of each check. Without pytest: `for check in checks("strategies", NAME): check()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedsim.testing.checking import Check, checks, kind_of
from fedsim.testing.verdicts import CheckFailed, NotApplicable

__all__ = [
    "Check",
    "CheckFailed",
    "NotApplicable",
    "checks",
    "client_checks",
    "dataset_checks",
    "kind_of",
    "model_checks",
    "partition_checks",
    "strategy_checks",
]


def strategy_checks(
    plugin: str | type,
    *overrides: str,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    **parameters: Any,
) -> Callable[..., None]:
    """The checks of a strategy as one parametrised test function, to be bound to a `test_` name.

    Args:
        plugin: the class, its dotted path, or its registered name.
        overrides: "key.sub=value" of the small scenario that the checks run, such as
            "client=mine.client:Mine".
        plugins: folders with modules that the plugin's path is looked up in.
        ray: also compare a run in this process with one on Ray; it takes some ten seconds.
        parameters: of the plugin's constructor.
    """
    return _parametrised("strategies", plugin, overrides, plugins, ray, parameters)


def client_checks(
    plugin: str | type,
    *overrides: str,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    **parameters: Any,
) -> Callable[..., None]:
    """The same of a client method, or of a Flower `ClientApp` by its path."""
    return _parametrised("clients", plugin, overrides, plugins, ray, parameters)


def dataset_checks(
    plugin: str | type,
    *overrides: str,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    **parameters: Any,
) -> Callable[..., None]:
    """The same of a data set: of its stand-in or, with "data.root=DIR", of a folder."""
    return _parametrised("datasets", plugin, overrides, plugins, ray, parameters)


def model_checks(
    plugin: str | type,
    *overrides: str,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    **parameters: Any,
) -> Callable[..., None]:
    """The same of a model."""
    return _parametrised("models", plugin, overrides, plugins, ray, parameters)


def partition_checks(
    plugin: str | type,
    *overrides: str,
    plugins: Sequence[str | Path] = (),
    ray: bool = False,
    **parameters: Any,
) -> Callable[..., None]:
    """The same of a partition."""
    return _parametrised("partitions", plugin, overrides, plugins, ray, parameters)


def _parametrised(
    group: str,
    plugin: str | type,
    overrides: Sequence[str],
    plugins: Sequence[str | Path],
    ray: bool,
    parameters: dict[str, Any],
) -> Callable[..., None]:
    import pytest

    name = plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}"
    found = checks(group, name, overrides, plugins=plugins, ray=ray, parameters=parameters)

    @pytest.mark.parametrize("check", found, ids=str)
    def test(check: Check) -> None:
        try:
            check()
        except CheckFailed as error:
            pytest.fail(str(error), pytrace=False)
        except NotApplicable as error:
            pytest.skip(str(error))

    return test
