"""The kinds of input. Input number k of a seed is always the same: all draws are its own."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from PIL import Image

from tests.fuzzing import mutate
from tests.fuzzing.bank import FOLDER, SCENARIOS, VOLUMES


@dataclass(frozen=True)
class Box:
    """The folders of one input.

    Attributes:
        root: the folder that is watched; nothing may appear in it outside of the others.
        given: what the input consists of.
        work: the current directory.
        runs, out, cache: where the command is told to write.
        home, temporary: HOME and TMPDIR.
    """

    root: Path
    given: Path
    work: Path
    runs: Path
    out: Path
    cache: Path
    home: Path
    temporary: Path

    @classmethod
    def make(cls, root: Path) -> Box:
        """Make the folders, so deep that "../../.." from any of them is still watched."""
        names = [field.name for field in fields(cls) if field.name != "root"]
        folders = [root / "deep" / "er" / "box" / name for name in names]
        for folder in folders:
            folder.mkdir(parents=True)
        return cls(root, *folders)


@dataclass(frozen=True)
class Input:
    """A command, and what it may change.

    Attributes:
        kind: name of its kind.
        words: of the command line.
        writes: folders in which files may appear, change and vanish, beside runs, out and cache.
    """

    kind: str
    words: list[str]
    writes: tuple[Path, ...] = ()


def draw(number: int, seed: int, kind: str, bank: Path, box: Box) -> Input:
    """Make the files of an input in its box, which is new; returns its command."""
    rng = random.Random(f"{seed} {number} {kind}")
    shutil.copytree(bank / "cache", box.cache, dirs_exist_ok=True)
    words, writes = KINDS[kind](rng, bank, box)
    words = [word.replace("ROOT", str(box.root)).replace("\0", "") for word in words]
    return Input(kind, words, writes)


_Made = tuple[list[str], tuple[Path, ...]]


def _verb(rng: random.Random, box: Box, source: str) -> list[str]:
    """A verb for a scenario."""
    what = rng.randrange(8)
    if what < 3:
        return ["check", source]
    if what == 3:
        return ["run", source, "--dry-run", "--runs", str(box.runs)]
    if what == 4:
        return ["data", "show", source, "--out", str(box.out / "p.png")]
    if what == 5:
        return ["data", "prepare", source]
    return ["run", source, "--runs", str(box.runs), "--backend", "inline"]


def _write(path: Path, scenario: Any, box: Box) -> str:
    content = yaml.safe_dump(scenario, sort_keys=False, allow_unicode=True)
    path.write_text(content.replace("ROOT", str(box.root)), "utf-8", "surrogatepass")
    return str(path)


def _scenario(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A scenario with changed entries, or with a changed text."""
    name = rng.choice(list(SCENARIOS))
    path = box.given / "s.yaml"
    if rng.random() < 0.75:
        _write(path, mutate.tree(SCENARIOS[name], rng, rng.choice((1, 1, 2, 3))), box)
    else:
        content = yaml.safe_dump(SCENARIOS[name], sort_keys=False)
        path.write_bytes(mutate.text(content, rng))
        if rng.random() < 0.05:
            mutate.replace(path, rng)
        elif rng.random() < 0.1:
            path.write_text(mutate.bomb(rng) + content)
    return _verb(rng, box, str(path)), ()


_KEYS = (
    *("rounds", "seeds", "name", "data.size", "data.name", "data.root", "data.embedded.images"),
    *("data.embedded.sites", "data.split.val", "data.split.test", "data.split.seed", "data.patch"),
    *("data.skip_bad", "data.split.folds", "federation.clients", "federation.participation"),
    *("federation.partition", "federation.partition.name", "federation.partition.alpha"),
    *("model", "model.name", "model.width", "model.init", "strategy", "strategy.name"),
    *("strategy.weighting", "strategy.codec", "client.name", "client.epochs", "client.batch_size"),
    *("client.learning_rate", "client.momentum", "client.loss", "client.proximal", "plugins"),
    *("privacy.unit", "privacy.delta", "privacy.target_epsilon", "privacy.noise_multiplier"),
    *("privacy.max_epsilon", "privacy.audit", "privacy.filter", "privacy", "evaluation.select"),
    *("evaluation.every", "evaluation.external", "evaluation.on_clients", "resources.backend"),
    *("resources.workers", "resources.threads", "resources.gpus", "faults.dropout"),
    *("faults.delay", "faults.deadline", "faults.client_timeout", "faults.min_clients", "profile"),
    *("federation.labels", "federation.appearance", "profiles", "description", "x", "a.b.c", ""),
)
_TYPED = (
    *("local_only", "server_momentum", "gdd", "distill", "local", "shards", "iid", "natural"),
    *("resnet18", "unet", "convnet", "client", "patient", "pooled_val", "uint8", "isic2020"),
    *("promise12", "flwr.serverapp.strategy.FedAdam", "flwr.serverapp.strategy.Krum", "1e-5"),
    *("{name: x}", "[1, 2]", "[0, 0]", "{", "[", "!!python/object:os.system x", "&a [*a]", "010"),
    *("1_000", "0x1F", "1e999", "-0", ".5", "2026-01-01", "{a: 1, a: 2}", "true", "on", "null"),
)


def _overrides(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A sound scenario with odd overrides and options."""
    path = box.given / "s.yaml"
    _write(path, SCENARIOS[rng.choice(list(SCENARIOS))], box)
    words = _verb(rng, box, str(path))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        key = rng.choice(_KEYS)
        if rng.random() < 0.5:
            value = rng.choice(_TYPED)
        else:
            odd = rng.choice(mutate.ODD_VALUES)
            value = odd if isinstance(odd, str) else json.dumps(odd)
        words.append(
            rng.choice(("{}={}",) * 12 + ("{}", "{}=", "={1}", "{}=={}")).format(key, value)
        )
    if rng.random() < 0.25:
        words += rng.choice(
            (["--seed", "-1"], ["--seed", "x"], ["--workers", "0"], ["--nonsense"], ["--profile"],
             ["--seed", "99999999999999999999"], ["--quiet"], ["--backend", "x"], [""])
        )  # fmt: skip
    return words, ()


def _words(rng: random.Random, bank: Path, box: Box) -> _Made:
    """Any words on the command line."""
    verbs = ("ls", "show", "cp", "check", "run", "sweep", "curve", "audit", "compare", "report",
             "clean", "data", "plugins", "status", "prepare", "--version", "")  # fmt: skip
    path = box.given / "s.yaml"
    _write(path, SCENARIOS["tiny"], box)
    shutil.copytree(bank / "runs" / "tiny", box.given / "run")
    others = ("--dry-run", str(box.given), str(box.given / "run"), "show", "rounds=1",
              str(path), "a=1,2", "--seeds", "0", "--epsilons", "1", "--runs", str(box.runs), "*",
              "--resume", "--jobs", "-1", "--out", str(box.out / "x"), "--csv", "--baseline",
              "--reach", "2", "--yes", "--stores", "--help", "/dev/null", "nowhere")  # fmt: skip
    words = [rng.choice(verbs)]
    if words[0] in ("show", "cp"):
        names = ("isic_iid_fedavg", "isic_iid_fedag", mutate.odd_name(rng))
        return [words[0], rng.choice(names), str(box.out / "x.yaml")][: 2 + (words[0] == "cp")], ()
    for _ in range(rng.randrange(5)):
        words.append(rng.choice(others) if rng.random() < 0.7 else mutate.odd_name(rng))
    if words[0] in ("run", "sweep", "curve"):
        words += ["--dry-run"]  # A sweep starts processes that nobody here waits for.
    # What is told to write elsewhere may do so.
    words = [word for word in words if word != "-v" and "../" not in word and "ROOT" not in word]
    return words, (box.given / "run", box.work)


def _mine(rng: random.Random, box: Box, base: dict[str, Any], root: Path) -> list[str]:
    """A verb for a scenario of a data folder, some of them by the natural partition."""
    natural, sent = rng.random() < 0.5, rng.random() < 0.3
    scenario = _scenario_of(base, root, natural, sent and base is FOLDER)
    if rng.random() < 0.3:
        scenario["data"]["skip_bad"] = True
    return _verb(rng, box, _write(box.given / "s.yaml", scenario, box))


def _table(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A folder of images whose table is changed."""
    root = box.given / "data"
    shutil.copytree(bank / "images", root)
    path = root / "table.csv"
    content = mutate.table(path.read_text(), rng).replace(b"ROOT", str(box.root).encode())
    path.write_bytes(content)
    what = rng.randrange(12)
    if what == 0:
        (root / "second.csv").write_bytes(
            mutate.table((bank / "images/table.csv").read_text(), rng)
        )
    elif what == 1:
        path.rename(root / rng.choice(("TABLE.CSV", "._table.csv", "table.tsv", "a.csv.csv")))
    elif what == 2:
        mutate.replace(path, rng)
    elif what < 6:
        content = mutate.sites((bank / "images" / "table.csv").read_text(), rng)
        path.write_bytes(content.replace(b"ROOT", str(box.root).encode()))
        scenario = _scenario_of(FOLDER, root, natural=True, sent=True)
        source = _write(box.given / "s.yaml", scenario, box)
        return ["run", source, "--runs", str(box.runs), "--backend", "inline"], ()
    return _mine(rng, box, FOLDER, root), ()


def _scenario_of(base: dict[str, Any], root: Path, natural: bool, sent: bool) -> dict[str, Any]:
    """A scenario of a data folder: its sites may be the clients, and send images."""
    scenario: dict[str, Any] = json.loads(json.dumps(base))
    scenario["data"]["root"] = str(root)
    if natural:
        scenario["federation"] = {"partition": {"name": "natural"}}
    if sent:
        scenario["strategy"] = {"name": "gdd", "epochs": 1}
        scenario["client"] = {"name": "random_selection", "images_per_class": 1}
        scenario["model"] = {"name": "convnet", "width": 4}
    return scenario


def _images(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A folder of images, some of which are damaged or unusual."""
    root = box.given / "data"
    shutil.copytree(bank / "images", root)
    paths = sorted((root / "pictures").iterdir())
    every = rng.random() < 0.2
    for path in paths if every else rng.sample(paths, rng.choice((1, 1, 3))):
        what = rng.randrange(8)
        if what < 3:
            path.write_bytes(mutate.noise(path.read_bytes(), rng))
        elif what == 3:
            mutate.replace(path, rng)
        else:
            _unusual(path, rng)
    if rng.random() < 0.2:
        (root / "table.csv").unlink()
        for k, path in enumerate(paths):
            if path.is_file():
                folder = (
                    root
                    / ("a", "b", mutate.odd_name(rng).replace("/", "_").replace("\0", ""))[
                        min(k % 4, 2)
                    ]
                )
                try:
                    folder.mkdir(exist_ok=True)
                    path.rename(folder / path.name)
                except OSError:  # No name for a folder.
                    continue
    return _mine(rng, box, FOLDER, root), ()  # fmt: skip


def _unusual(path: Path, rng: random.Random) -> None:
    """An image that is sound, but not of the usual kind."""
    mode = rng.choice(("1", "L", "P", "RGBA", "CMYK", "I", "I;16", "F", "LA", "YCbCr"))
    size = rng.choice(((1, 1), (1, 500), (12, 12), (3000, 2)))
    form = rng.choice(("PNG", "TIFF", "GIF", "BMP", "JPEG", "WEBP", "PPM", "ICO"))
    try:
        Image.new(mode, size).save(path, form)
    except (OSError, ValueError, KeyError, SystemError):  # Not every form has every mode.
        path.write_bytes(b"GIF89a" + rng.randbytes(40))


def _volumes(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A folder of volumes with a changed table, or with damaged or unusual volumes."""
    root = box.given / "data"
    shutil.copytree(bank / "volumes", root)
    if rng.random() < 0.35:
        path = root / "table.csv"
        content = mutate.table(path.read_text(), rng)
        path.write_bytes(content.replace(b"ROOT", str(box.root).encode()))
    for path in rng.sample(sorted(root.glob("*.nii.gz")), rng.choice((0, 1, 1, 2, 16))):
        what = rng.randrange(6)
        if what == 0:
            path.write_bytes(mutate.noise(path.read_bytes(), rng))
        elif what == 1:
            mutate.replace(path, rng)
        else:
            _unusual_volume(path, rng)
    return _mine(rng, box, VOLUMES, root), ()


def _unusual_volume(path: Path, rng: random.Random) -> None:
    """A volume of another shape, kind, place or content."""
    image = nib.load(path)
    data, affine = np.asarray(image.dataobj).copy(), image.affine.copy()
    what = rng.randrange(10)
    if what == 0:
        data = data[: rng.randrange(1, 16)]
    elif what == 1:
        data = data[..., None] if rng.random() < 0.5 else np.stack([data, data], -1)
    elif what == 2:
        data = data[:, :, 0]
    elif what == 3:
        data = np.full(data.shape, rng.choice((0.0, 7.0, np.nan, np.inf, -1e30)), np.float32)
    elif what == 4:
        data = data.astype(rng.choice((np.float64, np.int16, np.uint16, np.int32)))
        data.flat[rng.randrange(data.size)] = rng.choice((3, 255, 100))
    elif what == 5:
        affine[rng.randrange(3), rng.randrange(4)] += rng.choice((0.4, 1.0, 100.0, np.nan))
    elif what == 6:
        affine[:3, :3] = rng.choice((0.0, -1.0, 1e-9, 1e9)) * affine[:3, :3]
    elif what == 7:
        affine = affine[[1, 0, 2, 3]]
    elif what == 8:
        data = np.zeros((0, 4, 4), np.float32)
    else:
        data = data.astype(np.complex64)
    try:
        with warnings.catch_warnings(action="ignore"):
            nib.save(nib.Nifti1Image(data, affine), path)
    except Exception:  # What cannot be written is cut.
        path.write_bytes(path.read_bytes()[:100])


def _run_folder(rng: random.Random, bank: Path, box: Box) -> _Made:
    """A run folder, finished or not, with a damaged or exchanged file."""
    run, made = box.given / "runs" / "one", sorted((bank / "runs").iterdir())
    shutil.copytree(rng.choice([*made, bank / "runs" / "halted"]), run)
    shutil.copytree(rng.choice(made), box.given / "runs" / "two")
    for _ in range(rng.choice((1, 1, 2))):
        files = [path for path in sorted(run.rglob("*")) if path.is_file()]
        if files:
            _damage(rng.choice(files), rng, box)
    what = rng.randrange(10)
    both = str(box.given / "runs")
    if what < 3:
        return ["report", str(run)], (run / "report",)
    if what < 5:
        names = [str(box.out / f"t.{end}") for end in ("csv", "tex", "md")]
        options = ["--csv", names[0], "--latex", names[1], "--markdown", names[2]]
        if rng.random() < 0.5:
            options += ["--sites", "--reach", "0.6", "--bandwidth", "10"]
        return ["compare", both, *options], ()
    if what == 5:
        return ["clean", both, *rng.choice(([], ["--dry-run"], ["--yes"]))], (box.given / "runs",)
    if what == 6:
        return ["audit", str(run), "--level", "mechanism"], ()
    return ["run", "--resume", str(run), "--runs", str(box.runs)], (run,)


def _damage(path: Path, rng: random.Random, box: Box) -> None:
    """Change a file of a run folder or of a store, according to what it is."""
    if rng.random() < 0.12:
        mutate.replace(path, rng)
        return
    content = path.read_bytes()
    try:
        if path.suffix == ".json" and rng.random() < 0.75:
            made = json.dumps(mutate.tree(json.loads(content), rng, rng.choice((1, 1, 3)))).encode()
        elif path.suffix == ".jsonl" and rng.random() < 0.75:
            lines = content.decode().splitlines()
            where = rng.randrange(len(lines))
            lines[where] = json.dumps(mutate.tree(json.loads(lines[where]), rng))
            made = ("\n".join(lines) + "\n").encode()
        elif path.suffix == ".yaml" and rng.random() < 0.75:
            changed = mutate.tree(yaml.safe_load(content), rng)
            made = yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")
        elif path.suffix in (".json", ".jsonl", ".yaml", ".csv"):
            made = mutate.text(content.decode(), rng)
        else:
            made = mutate.noise(content, rng)
    except (ValueError, IndexError):
        made = mutate.noise(content, rng)
    path.write_bytes(made.replace(b"ROOT", str(box.root).encode()))


def _cached(rng: random.Random, bank: Path, box: Box) -> _Made:
    """Prepared data of which a file is damaged; the scenario is sound."""
    stores = sorted(path for path in box.cache.iterdir() if path.is_dir())
    for _ in range(rng.choice((1, 1, 2))):
        files = [path for path in sorted(rng.choice(stores).rglob("*")) if path.is_file()]
        if files:
            _damage(rng.choice(files), rng, box)
    path = _write(box.given / "s.yaml", SCENARIOS[rng.choice(list(SCENARIOS))], box)
    if rng.random() < 0.15:
        return ["data", "status"], ()
    if rng.random() < 0.15:
        return ["clean", "--stores", "--dry-run"], ()
    return _verb(rng, box, path), ()


KINDS: dict[str, Callable[[random.Random, Path, Box], _Made]] = {
    "scenario": _scenario,
    "overrides": _overrides,
    "words": _words,
    "table": _table,
    "images": _images,
    "volumes": _volumes,
    "run folder": _run_folder,
    "cache": _cached,
}
"""What an input is drawn by, by name of its kind."""
