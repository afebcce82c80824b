"""What a run left behind, as an object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    Attributes:
        folder: the run folder.
        seed: the run's seed.
        metrics: metrics of the final global model on the test split; None where undefined.
        summary: the content of summary.json.
        rounds: the lines of rounds.jsonl.
    """

    folder: Path
    seed: int
    metrics: dict[str, float | None]
    summary: dict[str, Any]
    rounds: list[dict[str, Any]]

    def rounds_frame(self) -> pandas.DataFrame:
        """A line for each round, by its number: metrics, MB, epsilon, seconds; needs pandas."""
        from fedsim.report.frames import rounds_frame

        return rounds_frame(self.rounds)

    def clients_frame(self) -> pandas.DataFrame:
        """A line for each round and client: what it reported, and its epsilon; needs pandas."""
        from fedsim.report.frames import clients_frame

        return clients_frame(self.rounds)

    def _repr_html_(self) -> str:
        from fedsim.report.snippets import result_html

        return result_html(self.folder, self.seed, self.summary)
