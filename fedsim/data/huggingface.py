"""Images of a Hugging Face data set: a folder that `save_to_disk` wrote, or a name on the hub.

The package `datasets` reads them; it is no dependency. Pictures are written into the cache once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.building import new_folder, publish
from fedsim.data.columns import meant, plain
from fedsim.data.dataset import Dataset, Manifest
from fedsim.data.source import file_state, hashed
from fedsim.data.table import ONE_SITE
from fedsim.errors import InputError, Problem, nearest

_RECORDS = "records.json"
_VERSION = 2  # of what is written into the cache
_KNOWN = ("image", "label", "group", "site")


class HuggingFace(Dataset):
    """Images and labels of a data set of the package `datasets`, without a stand-in.

    All its splits are pooled, and `data.split` decides what is for training and test, unless
    `subset` names one of them.

    Args:
        hub: name on the hub, in place of `data.root`; the package downloads it.
        config: of its configurations.
        subset: the only one of its splits that is read.
        columns: what the data set calls image, label, group and site: {label: dx}. Without it the
            only column of pictures, the only one of class labels, and columns that are called so.
    """

    layout = "a folder that save_to_disk of Hugging Face datasets wrote"

    def __init__(
        self,
        hub: str | None = None,
        config: str | None = None,
        subset: str | None = None,
        columns: dict[str, str] | None = None,
    ) -> None:
        if columns is not None and (strange := sorted(set(columns) - set(_KNOWN))):
            raise ValueError(f"columns names {strange[0]!r}, which is none of {', '.join(_KNOWN)}.")
        self.hub = hub
        self.config = config
        self.subset = subset
        self.columns = dict(columns or {})

    @property
    def rootless(self) -> bool:
        """Whether it needs no folder."""
        return self.hub is not None

    def fetch(self) -> Path:
        """The folder in the cache with the pictures of the hub's data set."""
        assert self.hub is not None
        package = _package()
        try:
            loaded = package.load_dataset(self.hub, self.config)
        except Exception as error:  # the network, the name, the package
            raise InputError(
                f"Hugging Face datasets cannot load {self.hub!r}",
                [Problem("data.hub", _line(error))],
                "check the name and the network, or save it elsewhere with save_to_disk and give "
                "data.root=DIR",
            ) from error
        return self._exported(loaded, self.hub)

    def manifest(self, root: Path) -> Manifest:
        """The records of a folder that `save_to_disk` wrote, or of one from `fetch`."""
        if not (root / _RECORDS).is_file():
            if not (root / "state.json").is_file() and not (root / "dataset_dict.json").is_file():
                problem = Problem(str(root), f"is none; expected: {self.layout}")
                raise InputError("this is no data set of Hugging Face", [problem])
            package = _package()
            try:
                loaded = package.load_from_disk(str(root))
            except Exception as error:
                problem = Problem(str(root), _line(error))
                raise InputError("Hugging Face datasets cannot read it", [problem]) from error
            root = self._exported(loaded, str(root))
        about = json.loads((root / _RECORDS).read_text(encoding="utf-8"))
        return Manifest(
            paths=[root / name for name in about["files"]],
            labels=np.array(about["labels"], dtype=np.int64),
            groups=about["groups"],
            sites=about["sites"],
            ids=about["ids"],
            classes=tuple(about["classes"]),
            bad=tuple(Problem(where, message) for where, message in about["bad"]),
            notes=tuple(about["notes"]),
            columns=about["columns"],
        ).checked()

    def _exported(self, loaded: Any, where: str) -> Path:
        """The pictures and what is known of them, in the cache."""
        from fedsim.files import cache_folder

        splits = self._splits(loaded, where)
        files = [
            [name, one["filename"], file_state(Path(one["filename"]))]
            for name, split in splits.items()
            for one in split.cache_files
        ]
        key = hashed([_VERSION, where, files, list(splits), sorted(self.columns.items())])
        folder = cache_folder() / f"huggingface-{key}"
        if (folder / _RECORDS).is_file():
            return folder
        with new_folder(cache_folder()) as building:
            about = self._written(splits, building, where)
            (building / _RECORDS).write_text(json.dumps(about), encoding="utf-8")
            publish(building, folder)
        return folder

    def _splits(self, loaded: Any, where: str) -> dict[str, Any]:
        splits = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
        if self.subset is None:
            return splits
        if self.subset not in splits:
            known = ", ".join(filter(None, splits)) or "none"
            raise InputError(
                f"there is no split {self.subset!r}{nearest(self.subset, filter(None, splits))}",
                [Problem("data.subset", f"of {where}; its splits are {known}")],
            )
        return {self.subset: splits[self.subset]}

    def _written(self, splits: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
        features = next(iter(splits.values())).features
        chosen = self._chosen(features, where)
        classes = list(getattr(features[chosen["label"]], "names", None) or ())
        about: dict[str, Any] = {
            name: [] for name in ("files", "labels", "groups", "sites", "ids", "bad")
        }
        columns: dict[str, list[str]] = {
            name: [] for name in features if name not in (chosen["image"], chosen["label"])
        }
        said: list[str] = []
        for name, row in _rows(splits):
            label, picture = row[chosen["label"]], row[chosen["image"]] or {}
            if label is None or (classes and not 0 <= int(label) < len(classes)):
                about["bad"].append((name, f"{chosen['label']} is {label!r}, which is no class"))
                continue
            if isinstance(content := picture.get("bytes"), bytes):
                file = f"{len(about['files']):08d}.img"
                (folder / file).write_bytes(content)
            else:
                file = str(Path(picture.get("path") or "missing").absolute())
            about["files"].append(file)
            about["ids"].append(name)
            said.append(str(label))
            about["groups"].append(_text(row.get(chosen.get("group", ""))))
            about["sites"].append(_text(row.get(chosen.get("site", ""))) or ONE_SITE)
            for column, values in columns.items():
                values.append(_text(row.get(column)))
        if not classes:
            classes = sorted(set(said))
            about["labels"] = [classes.index(label) for label in said]
        else:
            about["labels"] = [int(label) for label in said]
        if len(classes) < 2:
            problem = Problem(where, f"has only the class {', '.join(classes) or '(none)'}")
            raise InputError("a classifier needs at least two classes", [problem])
        names = [name for name in splits if name]
        pooled = [
            f"splits {', '.join(names)} are pooled; data.split decides what is for training and "
            "test"
        ]
        doubtful = [
            f"column {name!r} is not read: if it is the {known}, write "
            f"data.columns='{{{known}: {name}}}'"
            for name, values in columns.items()
            if (match := meant(name, ("group", "site"))) is not None
            and (known := match[0]) not in chosen
            and len(set(filter(None, values))) < sum(map(bool, values))
        ]
        return {
            **about,
            "classes": classes,
            "notes": [*(pooled if len(names) > 1 else []), *doubtful],
            "columns": columns,
        }

    def _chosen(self, features: Mapping[str, Any], where: str) -> dict[str, str]:
        """fedsim's names -> the data set's."""
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        titles = {plain(name): name for name in features}
        chosen: dict[str, str] = {}
        for known, title in self.columns.items():
            if title not in features:
                message = f"there is no column {title!r}{nearest(title, features)}"
                raise InputError("a column is missing", [Problem(f"data.columns.{known}", message)])
            chosen[known] = title
        for known, kind in (("image", "Image"), ("label", "ClassLabel")):
            if known in chosen:
                continue
            fitting = [name for name in features if kinds[name] == kind]
            if len(fitting) != 1 and known in titles:
                fitting = [titles[known]]
            if len(fitting) != 1:
                raise InputError(
                    f"which column is the {known}?",
                    [Problem(where, f"its columns are {', '.join(features)}")],
                    f"write data.columns='{{{known}: COLUMN}}'",
                )
            chosen[known] = fitting[0]
        for known in ("group", "site"):
            if known in chosen:
                continue
            fitting = [
                name
                for name in features
                if name not in chosen.values()
                and (match := meant(name, ("group", "site"))) is not None
                and match == (known, True)
            ]
            if len(fitting) > 1:
                raise InputError(
                    f"which column is the {known}?",
                    [Problem(where, f"it may be {', '.join(fitting)}")],
                    f"write data.columns='{{{known}: {fitting[0]}}}'",
                )
            chosen |= {known: fitting[0]} if fitting else {}
        return chosen


def _rows(splits: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record as plain values, with its name; pictures stay as their files' bytes."""
    for name, split in splits.items():
        plainly = split.with_format("arrow")
        for i in range(len(split)):
            (row,) = plainly[i].to_pylist()
            yield f"{name}/{i}" if name else str(i), row


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "data sets of Hugging Face are read by the package datasets, which is not installed",
            hint="type: pip install datasets",
        ) from None
    return datasets


def _line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines()
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)
