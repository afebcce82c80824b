"""Runs in TensorBoard: numbers by round, and the settings; a resumed run goes on where it was."""

from __future__ import annotations

import shlex
from pathlib import Path

from fedsim.observers.base import End, Observer, Row, Run
from fedsim.observers.tracking import MARKER, facts, numbers, require, results, settings

_FACTS = "run"


class TensorBoard(Observer):
    """Writes what TensorBoard shows into `tensorboard/` of the run folder, or where one says.

    The step of a number is its round. `final/...` are the results of summary.json.

    Args:
        folder: where runs are written, each into a folder of its own, `<scenario>/<run>`. By
            default into the run's own folder.

    Raises:
        ValueError: a package is missing, or `folder` is a file.
    """

    def __init__(self, folder: str | None = None) -> None:
        require("tensorboard", "tensorboard")
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise ValueError(f"folder {folder!r} is a file")
        self._folder = None if folder is None else Path(folder).absolute()

    def begin(self, run: Run) -> None:
        """Open the run's folder, and add the rounds that it lacks."""
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        place = run.folder / "tensorboard"
        if self._folder is not None:
            place = self._folder / run.folder.parent.name / run.folder.name
        told, described = _told(place)
        # What was written of a round that the run goes back to, or in part, counts no more.
        first = next((n for n in range(1, run.finished + 1) if n not in told), run.finished + 1)
        self._writer = SummaryWriter(str(place), purge_step=first)
        if not described:
            self._writer.add_text(_FACTS, _table(facts(run)), 0)
        for row in run.rows:
            if row["round"] >= first:
                self._write(row)
        self._writer.flush()
        shown = shlex.quote(str(self._folder or place))
        run.say(f"TensorBoard: to look, type: tensorboard --logdir {shown}")

    def round(self, row: Row) -> None:
        """Write the numbers of a round."""
        self._write(row)
        self._writer.flush()

    def end(self, end: End) -> None:
        """Write the results of a run that is done, beside its settings, and close."""
        if end.summary is not None:
            self._writer.add_hparams(
                settings(self._run),
                results(end.summary),
                run_name=".",
                global_step=end.summary["rounds"],
            )
        self._writer.close()

    def _write(self, row: Row) -> None:
        for name, value in numbers(row, self._run.clients).items():
            self._writer.add_scalar(name, value, row["round"])


def _told(place: Path) -> tuple[set[int], bool]:
    """The rounds that are there wholly, and whether the facts are."""
    if not place.is_dir():
        return set(), False
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    tags = found.Tags()
    steps = {one.step for one in found.Scalars(MARKER)} if MARKER in tags["scalars"] else set()
    return steps, f"{_FACTS}/text_summary" in tags["tensors"]


def _table(found: dict[str, str]) -> str:
    """Names and values as a table of Markdown, the values as they are."""
    rows = [
        f"| {name} | `{value.replace('|', ' ').replace('`', ' ')}` |"
        for name, value in found.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])
