"""Which columns of a matrix differ: paired t-tests by seed, with Holm's correction over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from fedsim.report.matrix import Matrix
from fedsim.report.pairing import difference, pairs_of, why_unpaired
from fedsim.report.statistics import Measure, holm, paired_t
from fedsim.report.text import aligned


@dataclass(frozen=True)
class PairedTest:
    """Two cells of one row of a matrix.

    Attributes:
        row: what the row is called.
        one, other: what the columns are called.
        difference: of the score, the first minus the other, over common seeds.
        p: of the paired t-test, two-sided.
        corrected: the same after Holm's correction over all tests of the matrix.
    """

    row: str
    one: str
    other: str
    difference: Measure
    p: float
    corrected: float


def paired_tests(found: Matrix) -> list[PairedTest]:
    """The tests of all pairs of columns in each row, in the order of the matrix.

    Cells without two common seeds, or that were tested on other records, are passed over.
    """
    name = found.metric.name
    differences: dict[tuple[str, str, str], Measure] = {}
    tested: dict[tuple[str, str, str], float] = {}
    for row in found.rows:
        for one, other in combinations(found.columns, 2):
            cells = [found.cells.get((row, column)) for column in (one, other)]
            if cells[0] is None or cells[1] is None:
                continue
            ours, theirs = cells[0].row, cells[1].row
            if why_unpaired(ours, theirs, name):
                continue
            scores = [(a.value(name), b.value(name)) for a, b in pairs_of(ours, theirs)]
            p = paired_t([a - b for a, b in scores if a is not None and b is not None])
            if p is not None:
                differences[row, one, other] = difference(ours, theirs, name)
                tested[row, one, other] = p
    corrected = holm(tested)
    return [
        PairedTest(*which, differences[which], p, corrected[which]) for which, p in tested.items()
    ]


def told(found: Matrix, tests: Sequence[PairedTest]) -> str:
    """The tests as a table of text, the smallest p first; what is to know of them above it."""
    keys = " by ".join(found.keys)
    if not tests:
        return f"no two columns of a row of {keys} have two seeds in common: nothing is tested"
    lines = [["", "columns", "difference", "seeds", "p", "Holm"]]
    for one in sorted(tests, key=lambda one: one.p):
        mean, spread = one.difference.mean or 0.0, one.difference.sd or 0.0
        shown = f"{mean:+.{found.metric.plain_digits}f}+-{found.metric.number(spread)}"
        p = [f"{value:.4f}" for value in (one.p, one.corrected)]
        pair = f"{one.one} - {one.other}"
        lines.append([one.row, pair, shown, str(one.difference.n), *p])
    title = (
        f"{found.metric.title}: paired t-tests by seed of the columns of each row, two-sided; "
        f"Holm: p corrected for all {len(tests)}"
    )
    return "\n".join([title, *aligned(lines)])
