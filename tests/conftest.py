"""What all tests share: seeds, their order, the folder of real data, a count of what was not run.

Every test draws from a stated seed: before each one the global generators are seeded with its name
and `--seed-base`. `--shuffle SEED` runs the tests in another order. A test must pass under any of
both: its name and these two numbers repeat it.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os

# Before torch is imported: on a busy machine two threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import locale
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# Nearly all tests are of the CPU: GPUs are hidden from them, and from what they start.
_SEEN = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if os.path.exists("/dev/nvidiactl") else ""
GPUS = os.environ.setdefault("FEDSIM_TEST_GPUS", _SEEN)  # The workers of pytest-xdist inherit it.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# They start Ray, servers or other processes: one at a time, all on one worker of `make test`.
STARTING_PROCESSES = {
    *(
        "test_baselines",
        "test_bits",
        "test_fast",
        "test_speed",
        "test_faults",
        "test_gpu",
        "test_raising",
        "test_cluster",
        "test_ray_access",
        "test_resume",
        "test_run",
    ),
    *("test_cli", "test_curve", "test_docs", "test_loopback", "test_packaging"),
    *("test_secured", "test_slurm", "test_sweep"),
    *("test_tutorial_curves_and_tables", "test_tutorial_own_images", "test_walk"),
}

# Reading or writing DICOM sets another locale for the whole process, in which texts are ASCII.
LOCALE = locale.setlocale(locale.LC_ALL)

# They look at pictures. For all others a run's pictures are not painted, which takes the half of
# a small run's time. What starts another process gets painted ones in any case.
LOOKING_AT_PICTURES = {
    *("test_cli", "test_curve", "test_docs", "test_federation", "test_partition_picture"),
    *("test_start", "test_studies", "test_picture"),
}
PAINTERS = (
    *("calibration", "curves", "drawing", "figures", "holdings", "overlays", "partition_picture"),
    *("privacy_picture", "seen_picture", "traffic_picture", "volumes", "work_picture"),
)
# Of these, whose lines are on all pages, not even axes are made for modules that name none of them.
LINED = ("calibration", "curves", "figures", "traffic_picture", "work_picture")
# As is, on nearly all, who holds what.
HELD = "partition_picture"
DRAWS = re.compile(rf"report\.(?:{'|'.join((*PAINTERS, 'frames', 'phases'))})\b")
# A PNG of one white pixel.
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63"
    "f80f00010101001cb08c990000000049454e44ae426082"
)

# A loaded machine must not fail a test: examples have no time limit of their own.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that FEDSIM_TEST_DATA names; tests of real data are skipped without it."""
    folder = os.environ.get("FEDSIM_TEST_DATA")
    if not folder:
        pytest.skip("FEDSIM_TEST_DATA is not set: no real data to test with")
    if not Path(folder).is_dir():
        pytest.fail(f"FEDSIM_TEST_DATA={folder} is no folder")
    return Path(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two numbers that must not matter."""
    parser.addoption("--seed-base", type=int, default=0, help="seed of all draws of the tests")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in this order")


def seed_all(config: pytest.Config, name: str) -> None:
    """Seed the global generators of `random`, NumPy and torch with a name and `--seed-base`."""
    import torch

    seed = zlib.crc32(f"{config.getoption('--seed-base')} {name}".encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def _stated_seed(request: pytest.FixtureRequest) -> None:
    """Seed every test by its own name, so that neither order nor neighbours show in its draws."""
    name, group = request.node.nodeid, request.node.get_closest_marker("xdist_group")
    # pytest-xdist names the group behind it.
    seed_all(request.config, name.removesuffix(f"@{group.args[0]}") if group else name)


class Paper:
    """A figure or its axes, that takes whatever is drawn."""

    def __getattr__(self, name: str) -> Paper:
        return self

    def __call__(self, *_: object, **__: object) -> Paper:
        return self

    def __iter__(self) -> Iterator[Paper]:
        return iter((self, self))  # As handles and labels of a legend.


def empty_rows(*_: object) -> tuple[Any, float]:
    """In place of a figure of a partition, and its height in inches."""
    return Paper(), 1.0


def empty_frame(*_: object, rows: int = 1, columns: int = 1, **__: object) -> Any:
    """In place of `fedsim.report.drawing.frame`."""
    return Paper(), [Paper()] * (rows * columns)


@pytest.fixture(scope="module", autouse=True)
def _painted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave pictures white in the modules that do not look at them."""
    path = request.path
    if path.parent.name == "report" or path.stem in LOOKING_AT_PICTURES:
        yield
        return
    # All first: who is imported later would take what is patched for the original.
    painters = [importlib.import_module(f"fedsim.report.{name}") for name in PAINTERS]
    named = DRAWS.search(request.path.read_text())
    with pytest.MonkeyPatch.context() as patch:
        for painter in painters:
            patch.setattr(painter, "png", lambda _: DOT)
            if named:
                continue
            if painter.__name__.endswith(LINED):
                patch.setattr(painter, "frame", empty_frame)
            elif painter.__name__.endswith(HELD):
                patch.setattr(painter, "_each_client", empty_rows)
        yield


@pytest.fixture(scope="session", autouse=True)
def _unhindered() -> Iterator[None]:
    """Wait for no disk, and ask git once: of a small run that is a third of the time.

    A process that is killed loses nothing that it has written; to sync guards against a power cut.
    Tests of what is synced, and of a disk that fails at it, put their own in this one's place.
    """
    from fedsim.folder import runfolder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # Which refuses a handle that is not open, too.
        patch.setattr(runfolder, "_git", functools.cache(runfolder._git))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """Seed what several tests share by its own name: whichever test asks first, it is the same."""
    if fixturedef.scope != "function":
        seed_all(request.config, f"{fixturedef.baseid}::{fixturedef.argname}")
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin each test in the locale that the process began in."""
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """The same after what it shares with others was made."""
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist looks for groups.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests, and keep those that start processes from each other's way."""
    order = config.getoption("--shuffle")
    if order is not None:
        # Modules stay together, or what a module's tests share would be made for each of them.
        draws = random.Random(order)
        modules = {item.path: draws.random() for item in items}
        items.sort(key=lambda item: (modules[item.path], draws.random()))
    for item in items:
        if item.path.stem in STARTING_PROCESSES or "_ray_" in item.name:
            item.add_marker(pytest.mark.xdist_group("processes"))
        elif not item.get_closest_marker("xdist_group") and shares(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def shares(item: pytest.Item) -> bool:
    """Whether a test needs what its module makes once: two workers would make it twice."""
    module = item.nodeid.partition("::")[0]
    known: Mapping[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    return any(
        one.scope == "module" and one.baseid == module for found in known.values() for one in found
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what was imported out of all searches for garbage, of which Flower asks for many."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, for each reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        # A skip is (file, line, reason); an expected failure is a text.
        told = report.longrepr
        reasons[told[2].removeprefix("Skipped: ") if isinstance(told, tuple) else str(told)] += 1
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} tests skipped")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")
