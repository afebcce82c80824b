"""What all tests share: the folder of real data, and a count of what was not run."""

from __future__ import annotations

import os

# Before torch is imported: on a busy machine two threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# They start Ray, servers or other processes: one at a time, all on one worker of `make test`.
STARTING_PROCESSES = {
    *("test_baselines", "test_bits", "test_faults", "test_resume", "test_run"),
    *("test_cli", "test_curve", "test_deployment", "test_docs", "test_packaging", "test_sweep"),
}

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that start processes from each other's way."""
    for item in items:
        if item.path.stem in STARTING_PROCESSES or "_ray_" in item.name:
            item.add_marker(pytest.mark.xdist_group("processes"))


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
