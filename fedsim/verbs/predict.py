"""`fedsim predict`: what a run's model says of files."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs

if TYPE_CHECKING:
    from fedsim.trained.about import About
    from fedsim.trained.load import TrainedModel
    from fedsim.trained.predicting import Answer

_SHOWN = 3  # classes on a line, where there are many


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("predict", _predict, "Ask a run's model about images or volumes.")
    model_arguments(one)
    one.add_argument("files", nargs="+", type=Path, metavar="FILE|FOLDER", help="what to ask about")
    one.add_argument("--csv", type=Path, metavar="FILE", help="write the answers as a table")
    one.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the masks of volumes (default: masks)"
    )


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN and --client."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or its model file")
    parser.add_argument(
        "--client", metavar="NAME", help="whose model, where each client has its own"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")


def _predict(arguments: argparse.Namespace) -> int:
    from fedsim.folder.runfolder import write_named
    from fedsim.report.csv_file import csv_bytes
    from fedsim.trained.load import load_model, require_known
    from fedsim.trained.predicting import classify, find_files, require_elsewhere, segment, table

    for place, is_folder in ((arguments.csv, False), (arguments.out, True)):
        if place is not None and place.exists() and place.is_dir() != is_folder:
            kind = "a folder" if is_folder else "a file"
            raise InputError(f"{place} is there, and is not {kind}")
    trained = load_model(arguments.run, arguments.client)
    about = trained.about
    require_known(about)
    volumes = about.segments
    if arguments.out is not None and not volumes:
        raise InputError(
            "--out is for the masks of volumes, and this model classifies images",
            hint="to get a table, type --csv FILE",
        )
    out = (arguments.out or Path("masks")) if volumes else None
    files, problems = find_files(arguments.files, trained, out)
    asked = len(files) + len(problems)
    if arguments.csv is not None:
        require_elsewhere(files, [arguments.csv])
    for line in _about_lines(about):
        say(line)
    answers: list[Answer] = []
    try:
        for answer in classify(trained, files) if out is None else segment(trained, files, out):
            answers.append(answer)
            # A table stands in place of the lines; where masks are is said in any case.
            if not answer.error and (arguments.csv is None or answer.mask is not None):
                say(f"{answer.path}: {_told(answer, about)}")
    finally:
        # What was found out is kept, whatever ends it.
        if arguments.csv is not None and answers:
            write_named(arguments.csv, csv_bytes(table(answers, trained)))
    for line in _closing(answers, trained, arguments.csv):
        say(line)
    problems += [Problem(str(one.path), one.error) for one in answers if one.error]
    if problems:
        raise InputError(
            f"{len(problems)} of {asked} files or folders cannot be used",
            problems,
            hint="all others were; repair or leave out what is named",
        )
    return EXIT_DONE


def _about_lines(about: About) -> list[str]:
    """Which model answers, and how far it can be believed."""
    names = ", ".join(about.classes)
    positive = f"; positive class: {about.positive}" if about.positive else ""
    lines = [f"model: {about.title} ({about.architecture}), of {names}{positive}"]
    if about.stand_in:
        lines.append(
            f"NOTE trained on an embedded stand-in for {about.data}: generated images, so its "
            "answers about real ones mean nothing"
        )
    return [*lines, "for research; not a medical device"]


def _told(answer: Answer, about: About) -> str:
    if answer.found is not None:
        told = zip(about.classes[1:], answer.found[1:], strict=True)
        sizes = ", ".join(f"{name} {ml:.3g} ml" for name, (_, ml) in told)
        return f"{answer.mask} ({sizes})"
    assert answer.probabilities is not None
    order = range(len(about.classes))
    if len(about.classes) > _SHOWN:
        order = (-answer.probabilities).argsort(kind="stable")[:_SHOWN].tolist()
    parts = (f"{about.classes[k]} {answer.probabilities[k]:.3f}" for k in order)
    return f"{about.classes[answer.label]} ({', '.join(parts)})"


def _closing(answers: list[Answer], trained: TrainedModel, csv: Path | None) -> list[str]:
    """How many files were answered about, and what was said of how many."""
    good = [one for one in answers if not one.error]
    if not good:
        return []
    what = "1 file" if len(good) == 1 else f"{len(good)} files"
    if trained.about.classifies:
        often = Counter(trained.classes[one.label] for one in good)
        what += ": " + ", ".join(f"{often[name]} {name}" for name in trained.classes)
    return [what, *([f"table: {csv}"] if csv is not None else [])]
