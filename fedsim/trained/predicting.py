"""Ask a model about many files: what cannot be read is told, and the others are answered."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data import dicom
from fedsim.data.finding import SUFFIXES as PICTURES
from fedsim.data.finding import images_below
from fedsim.data.volumes.pairing import volumes_below
from fedsim.data.volumes.reading import PICTURES as SLICES
from fedsim.data.volumes.reading import SUFFIXES as VOLUMES
from fedsim.errors import InputError, Problem, problems_of
from fedsim.files import file_names
from fedsim.folder.runfolder import write_whole
from fedsim.trained.load import TrainedModel
from fedsim.trained.pictures import AT_A_TIME, probabilities, read_picture
from fedsim.trained.volumes import segment_file


@dataclass(frozen=True)
class Answer:
    """What a model says of one file.

    Attributes:
        path: the file.
        probabilities: of a picture, float32 [classes].
        found: of a volume, for each class voxels and millilitres.
        mask: where the segmentation was written.
        error: why the file cannot be used; then there is nothing else.
    """

    path: Path
    probabilities: np.ndarray | None = None
    found: tuple[tuple[int, float], ...] | None = None
    mask: Path | None = None
    error: str = ""

    @property
    def label(self) -> int:
        """The most probable class of a picture."""
        assert self.probabilities is not None
        return int(self.probabilities.argmax())


def find_files(
    places: Sequence[Path], trained: TrainedModel, out: Path | None = None
) -> tuple[list[Path], list[Problem]]:
    """The files to ask about: those named, and those of the right kind at any depth of folders.

    Names with a leading dot are passed over, and so is what lies in `out`, where masks are written.
    A folder with the files of one DICOM series is a volume.

    Returns:
        The files, each once, those of a folder sorted; and what is wrong with places.
    """
    volumes = trained.about.segments
    found: dict[Path, None] = {}
    problems = []
    for place in places:
        if not os.path.lexists(place):
            problems.append(Problem(str(place), "does not exist"))
            continue
        here = [place]
        if os.path.isdir(place):
            try:
                here = _volumes_in(place) if volumes else images_below(place)
            except (InputError, OSError) as error:
                problems += _told(error, place)
                continue
            if out is not None and not _within(place, out):
                here = [path for path in here if not _within(path, out)]
        if not here:
            kinds = ", ".join((*VOLUMES, *SLICES, "DICOM") if volumes else sorted(PICTURES))
            what = "volumes" if volumes else "images"
            problems.append(Problem(str(place), f"holds no {what} ({kinds})"))
        found |= dict.fromkeys(sorted(here))
    return list(found), problems


def _volumes_in(folder: Path) -> list[Path]:
    """The volumes below a folder, or the folder itself where it holds the files of a series."""
    series = [folder] if len(dicom.series_in(folder)) > 1 else []
    return series + (volumes_below(folder) or volumes_below(folder, SLICES))


def _told(error: InputError | OSError, place: Path) -> list[Problem]:
    if isinstance(error, OSError):
        return [Problem(str(error.filename or place), f"cannot be read: {error.strerror}")]
    return problems_of(error, str(place))


def _within(path: Path, out: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out))


def classify(trained: TrainedModel, files: Iterable[Path]) -> Iterator[Answer]:
    """Answers about pictures, in the order of the files."""
    left = iter(files)
    while some := list(islice(left, AT_A_TIME)):
        pictures, errors = {}, {}
        for path in some:
            try:
                pictures[path] = read_picture(path, trained.about)
            except ValueError as error:
                errors[path] = str(error)
        found = probabilities(trained.model, pictures.values(), trained.about, trained.device)
        said = dict(zip(pictures, found, strict=True))
        for path in some:
            yield Answer(path, said.get(path), error=errors.get(path, ""))


def segment(trained: TrainedModel, files: Sequence[Path], out: Path) -> Iterator[Answer]:
    """Answers about volumes, in the order of the files; each mask is written into `out`.

    Raises:
        InputError: a mask would take the place of a file that is asked about.
    """
    masks = mask_names(files, out)
    require_elsewhere(files, masks.values())
    for path in files:
        try:
            found = segment_file(trained.model, path, trained.about, trained.device)
        except ValueError as error:
            yield Answer(path, error=str(error))
            continue
        write_whole(masks[path], found.nifti())
        sizes = ((found.voxels(k), found.millilitres(k)) for k in range(len(trained.classes)))
        yield Answer(path, found=tuple(sizes), mask=masks[path])


def mask_names(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file of each volume's mask, named as the volume is; of several alike, as their paths."""
    stems = {path: _stem(path.name) for path in files}
    often = Counter(stem.casefold() for stem in stems.values())
    texts = {
        path: stem if often[stem.casefold()] == 1 else str(path) for path, stem in stems.items()
    }
    names = file_names(texts.values())
    return {path: out / f"{names[text]}_mask.nii.gz" for path, text in texts.items()}


def _stem(name: str) -> str:
    for suffix in sorted(VOLUMES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def require_elsewhere(files: Iterable[Path], targets: Iterable[Path]) -> None:
    """Refuse to write where a file lies that is asked about."""
    asked = {os.path.realpath(path) for path in files}
    problems = [
        Problem(str(target), "is one of the files that are asked about")
        for target in targets
        if os.path.realpath(target) in asked
    ]
    if problems:
        raise InputError("files would be overwritten", problems, hint="choose another place")


def table(answers: Sequence[Answer], trained: TrainedModel) -> list[list[Any]]:
    """The rows of a CSV file: numbers are not rounded, and unreadable files say why."""
    classes = trained.classes
    if trained.about.classifies:
        header = ["file", "predicted", *(f"p_{name}" for name in classes), "error"]
        nothing: list[Any] = [None] * (1 + len(classes))
        return [
            header,
            *(
                [str(one.path), *nothing, one.error]
                if one.probabilities is None
                else [str(one.path), classes[one.label], *map(float, one.probabilities), None]
                for one in answers
            ),
        ]
    found = range(1, len(classes))
    header = ["file", "mask"]
    header += [f"{classes[k]} {unit}" for k in found for unit in ("voxels", "ml")]
    rows: list[list[Any]] = [[*header, "error"]]
    for one in answers:
        values: list[Any] = [None] * (2 * len(found))
        if one.found is not None:
            values = [value for k in found for value in one.found[k]]
        mask = None if one.mask is None else str(one.mask)
        rows.append([str(one.path), mask, *values, one.error or None])
    return rows
