"""The model card of a run, in the form that the Hugging Face hub reads: Mitchell et al., "Model
Cards for Model Reporting" (2019).

Whoever gets the model gets the card: of a private run it tells no counts but that of test records.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedsim.errors import InputError
from fedsim.folder.identity import deployed_nodes
from fedsim.folder.runfolder import CARD, MODEL, MODELS, RunFolder
from fedsim.folder.tuned import price_of_choice
from fedsim.pretrained.catalogue import CATALOGUE, PREFIX, Weights
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.randomness import Streams
from fedsim.registry import default_registry
from fedsim.report.paths import hidden
from fedsim.report.record import Record, read_record
from fedsim.report.statistics import LEVEL, REPLICATES, interval
from fedsim.report.tested import Tested, read_tested
from fedsim.report.text import typed
from fedsim.trained.about import About
from fedsim.trained.files import SUFFIX, read_about

FEW = 200
"""Test records, below which the card warns."""

_MOST_CELLS = 4e8
"""Models times records times resamples, above which no interval is drawn."""

_MANY_SITES = 20
_BOUNDS = {"analytic": "exact, of the Gaussian mechanism"}


@dataclass(frozen=True)
class _Facts:
    """What a card is made of."""

    record: Record
    about: About
    models: int
    tested: Tested | None

    @property
    def title(self) -> str:
        """Which run it is; its seed is not told where noise can be computed from it."""
        return str(self.record.run["scenario"]) if self.private else self.record.title

    @property
    def private(self) -> bool:
        return self.record.run.get("privacy") is not None

    @property
    def nodes(self) -> int:
        return deployed_nodes(self.record.run)

    @property
    def way(self) -> str:
        """How it was trained, in a word."""
        return "federation" if self.nodes else "simulation"

    @property
    def headline(self) -> str:
        return self.record.task.headline

    @property
    def summary(self) -> dict[str, Any]:
        return self.record.summary or {}

    @property
    def pretrained(self) -> Weights | None:
        """The weights of the catalogue that the model began with."""
        return CATALOGUE.get(str(self.plugin("model").get("init")))

    @property
    def keeps(self) -> str:
        """What of records the file holds as it is, in words; "" for weights alone."""
        name = self.about.architecture
        known = name in default_registry().names("models")
        return (
            str(getattr(default_registry().resolve("models", name), "keeps", "")) if known else ""
        )

    def plugin(self, block: str) -> Mapping[str, Any]:
        found = self.record.scenario.get(block)
        return found if isinstance(found, dict) else {}


def write_card(folder: Path, read: Callable[[], Record] | None = None) -> Path:
    """Write the card of a finished run, unless there is one: people write into it.

    `read` gives the record of the folder, paths hidden, where that has been read already.

    Raises:
        InputError: it is no run folder, or files of it are missing or damaged.
    """
    path = folder / CARD
    if not path.exists():
        RunFolder(folder).write_text(CARD, build_card(folder, read))
    return path


def build_card(folder: Path, read: Callable[[], Record] | None = None) -> str:
    """The card of a finished run, Markdown with YAML in front; `read` as in `write_card`.

    Raises:
        InputError: as `write_card`, or the run has not finished.
    """
    record = read() if read else hidden(read_record(folder))
    if record.summary is None or record.run["status"] != "done":
        raise InputError(
            f"{folder} has not finished: there is no model to tell of",
            hint=f"type: fedsim run --resume {folder}",
        )
    own = sorted((folder / MODELS).glob(f"*{SUFFIX}"))
    files = [folder / MODEL] if (folder / MODEL).is_file() else own
    if not files:
        raise InputError(f"{folder} has no model file", hint="run the scenario again")
    try:
        tested = read_tested(folder)
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from error
    facts = _Facts(record, read_about(files[0]), len(files), tested)
    found = _interval(facts)
    parts = [
        f"---\n{_front(facts, found)}---\n",
        f"# {_plain(facts.title)}\n",
        _opening(facts),
        "## Use\n",
        _use(facts),
        "## Data\n",
        _data(facts),
        "## Results\n",
        _results(facts, found),
        "## Privacy\n",
        _privacy(facts),
        "## Training\n",
        _training(facts),
        "## Limits\n",
        _limits(facts),
        "## How to load it\n",
        _load(facts, files[0].relative_to(folder).as_posix()),
        "## Licence and citation\n",
        _licence(facts),
    ]
    return "\n".join(parts)


def _interval(facts: _Facts) -> tuple[float, float] | None:
    """The bootstrap interval of the headline over test records; None where there is none."""
    tested = facts.tested
    if tested is None or tested.metric != facts.headline or len(tested.strata) < 2:
        return None
    if tested.models * len(tested.strata) * REPLICATES > _MOST_CELLS:
        return None
    one: Any = tested
    draws = Streams(0).numpy("bootstrap")  # the same as in tables of runs
    return interval(one.strata, lambda weights: one.score([one], weights), draws)


def _front(facts: _Facts, found: tuple[float, float] | None) -> str:
    """The YAML in front."""
    about, run = facts.about, facts.record.run
    tags = ["medical-imaging", "federated-learning", facts.way, "fedsim"]
    tags += [str(name) for block in ("strategy",) if (name := facts.plugin(block).get("name"))]
    tags += ["differential-privacy"] if facts.summary.get("certified") else []
    source = "generated stand-in for " if about.stand_in else ""
    metrics = [
        {"type": name, "name": facts.record.task.title(name), "value": value}
        for name, value in _overall(facts).items()
        if value is not None
    ]
    if found is not None and metrics:
        for one in metrics:
            if one["type"] == facts.headline:
                one["args"] = {"interval": list(found), "level": LEVEL}
    result = {
        "task": {"type": about.task},
        "dataset": {"name": source + about.data, "type": about.data, "split": "test"},
        "metrics": metrics,
    }
    front: dict[str, Any] = {
        "library_name": "fedsim",
        "pipeline_tag": about.task,
        "license": "other",
        "license_name": "not-stated",
        "tags": list(dict.fromkeys(tags)),
        "model-index": [{"name": str(run["scenario"]), "results": [result]}],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)


def _overall(facts: _Facts) -> dict[str, float | None]:
    """Metrics on the whole test split."""
    metrics = facts.summary.get("metrics", {})
    return {k: v for k, v in metrics.items() if "@" not in k and not k.startswith("external_")}


def _opening(facts: _Facts) -> str:
    about = facts.about
    names = ", ".join(_plain(name) for name in about.classes)
    what = f"labels each voxel of a volume as {names}" if about.segments else f"tells {names}"
    if not about.answers:
        what = f"was trained {_plain(facts.record.task.goal)}"
    lines = [
        "> **For research. Not a medical device.** No number here says that this model is fit for "
        "patients.\n"
    ]
    if about.stand_in:
        lines.append(
            f"> **Trained on generated images**, a stand-in for {_plain(about.data)}: what it says "
            "of real images means nothing.\n"
        )
    method = _plain(str(facts.plugin("strategy").get("name", "")))
    lines.append(
        f"A `{_code(about.architecture)}` network that {what}. It was trained by the "
        f"federated method `{_code(method)}` in a {facts.way} with fedsim "
        f"{_plain(about.version)}.\n"
    )
    if about.positive:
        lines.append(f"Of its two classes the positive one is **{_plain(about.positive)}**.\n")
    if facts.models > 1:
        lines.append(
            f"There is no global model: each of {facts.models} clients has its own, in "
            f"`{MODELS}/`.\n"
        )
    return "\n".join(lines)


def _use(facts: _Facts) -> str:
    return _list(
        "Meant for: research on federated learning, and repeating and comparing its results.",
        "Not meant for: diagnosis, treatment, triage, or any decision about a person.",
        "Before any other use: test it on data of the place where it is to be used, by site, by "
        "device and by group of patients.",
    )


def _data(facts: _Facts) -> str:
    about, data = facts.about, facts.record.run["data"]
    sizes = data.get("sizes") or {}
    found = about.preprocessing
    source = "generated images, a stand-in for it" if about.stand_in else "read from files"
    lines = [
        f"Data set: {_plain(about.data)}, {source}.",
        f"Clients: {len(facts.record.clients)}, shared out by "
        f"{_plugin(facts.plugin('federation').get('partition'))}.",
    ]
    if facts.private:
        lines.append(f"Records for testing: {sizes.get('test', 'unknown')}.")
    elif sizes:
        told = ", ".join(f"{number} {_plain(split)}" for split, number in sizes.items())
        lines.append(f"Records: {told}; those of one patient are on one side, where that is known.")
    if not about.of_volumes:
        lines.append(
            f"Preprocessing: {found['colours']}, {found['size']} x {found['size']} px "
            f"({found['resize']}), normalised by channel."
        )
    else:
        steps = [f"intensities {found['normalise']}", f"orientation {found['orientation']}"]
        for key in ("spacing", "field_of_view", "slices"):
            if found[key] is not None:
                steps.append(f"{key.replace('_', ' ')} {typed(found[key])}")
        lines.append(f"Preprocessing: {', '.join(steps)}, slices of {found['size']} voxels.")
    return _list(*lines)


def _results(facts: _Facts, found: tuple[float, float] | None) -> str:
    task = facts.record.task
    count = None if facts.tested is None else len(facts.tested.strata)
    head = "On the test split"
    if count is not None:
        head += f" of {count} records"
    if facts.about.positive:
        head += f"; positive class: {_plain(facts.about.positive)}"
    if facts.models > 1:
        head += f"; means over the models of {facts.models} clients"
    rows = [f"{head}.\n", "| metric | value | 95% interval |", "|---|---|---|"]
    for name, value in _overall(facts).items():
        ends = ""
        if found is not None and name == facts.headline:
            ends = " to ".join(map(task.main.number, found))
        told = "undefined" if value is None else task.text(name, value)
        rows.append(f"| {_plain(task.title(name))} | {told} | {ends} |")
    rows.append("")
    if found is not None:
        rows.append(
            "The interval is over test records (bootstrap); another seed would train another "
            "model.\n"
        )
    if count is not None and count < FEW:
        rows.append(f"**{count} test records are few: read these numbers with care.**\n")
    rows += _by_site(facts)
    outside = {
        k.removeprefix("external_"): v
        for k, v in facts.summary.get("metrics", {}).items()
        if k.startswith("external_")
    }
    if outside:
        told = ", ".join(
            f"{_plain(task.title(k))} {task.text(k, v)}"
            for k, v in outside.items()
            if v is not None
        )
        rows.append(f"On external records, which no client has: {told or 'undefined'}.\n")
    return "\n".join(rows)


def _by_site(facts: _Facts) -> list[str]:
    """The headline on each site's test records."""
    begin = f"{facts.headline}@"
    found = {
        k.removeprefix(begin): v
        for k, v in facts.summary.get("metrics", {}).items()
        if k.startswith(begin) and k.removeprefix(begin) not in ("own", "others")
    }
    main = facts.record.task.main
    name = _plain(main.title)
    known = {site: value for site, value in found.items() if value is not None}
    if len(known) > _MANY_SITES:
        low, high = min(known.values()), max(known.values())
        return [f"{name} at {len(known)} sites: {main.number(low)} to {main.text(high)}.\n"]
    if not known:
        return []
    told = ", ".join(f"{_plain(site)} {main.text(value)}" for site, value in known.items())
    return [f"{name} by site: {told}.\n"]


def _privacy(facts: _Facts) -> str:
    plan, summary = facts.record.run.get("privacy"), facts.summary
    if facts.keeps:
        return (
            f"**The file holds {facts.keeps}**, as they are: whoever has it has these records. "
            "Treat it as you treat the data.\n"
        )
    if not isinstance(plan, dict):
        return (
            "No privacy mechanism was used. The weights may give away training records: treat the "
            "file as you treat the data.\n"
        )
    unit = UNIT_NAMES.get(plan.get("unit"), str(plan.get("unit")))  # type: ignore[arg-type]
    lines = []
    if summary.get("certified") and summary.get("epsilon") is not None:
        name = str(summary.get("accountant"))
        bound = _BOUNDS.get(name, f"{name.upper()} upper bound")
        lines.append(
            f"Differentially private: epsilon is at most {summary['epsilon']:.3g} at delta "
            f"{summary['delta']:g} for every {unit} ({bound}). Neighbours: "
            f"{_plain(str(plan.get('adjacency')))}."
        )
    elif summary.get("certified"):
        lines.append("**No finite epsilon**: there is too little noise for a guarantee.")
    else:
        claimed = summary.get("epsilon_claimed")
        told = "" if claimed is None else f", which claims epsilon {claimed:.3g}"
        lines.append(f"**No guarantee**: nothing is proved of the mechanism{told}.")
    if price := price_of_choice(facts.record.path):
        lines.append(f"**Chosen among trials**: {_plain(price)}")
    lines.append(f"Mechanism: {_plain(str(plan.get('mechanism')))}.")
    if plan.get("randomness"):
        lines.append(f"Randomness of the noise: {_plain(str(plan['randomness']))}.")
    if plan.get("unit_note"):
        lines.append(_plain(str(plan["unit_note"])))
    if plan.get("trust_note"):
        lines.append(f"**Trust**: {_plain(str(plan['trust_note']))}.")
    audit = summary.get("audit")
    if isinstance(audit, dict) and isinstance(audit.get("line"), str):
        lines.append(f"Audit: {_plain(audit['line'])}.")
    lines.append("Also released, and not covered by the mechanism:")
    released = [_plain(str(one)) for one in facts.record.run.get("released_without_privacy") or []]
    return _list(*lines) + "".join(f"  - {one}\n" for one in released)


def _training(facts: _Facts) -> str:
    summary, source = facts.summary, facts.plugin("model").get("init")
    lines = [
        f"Strategy: {_plugin(facts.plugin('strategy'))}.",
        f"Client method: {_plugin(facts.plugin('client'))}.",
        f"Model: {_plugin({k: v for k, v in facts.plugin('model').items() if k != 'init'})}.",
    ]
    if facts.pretrained is not None:
        lines.append(f"The first weights were `{source}`: {facts.pretrained.about}.")
    elif isinstance(source, str) and source.startswith(PREFIX):
        lines.append(f"The first weights came from {_code(source)}, with what that was trained on.")
    elif source:
        lines.append("The first weights came from a file, with what that was trained on.")
    lines.append(
        f"Rounds: {summary.get('rounds')}; traffic {summary['mb_up_total']:.3g} MB up, "
        f"{summary['mb_down_total']:.3g} MB down."
    )
    if isinstance(stopped := summary.get("stopped"), str):
        lines.append(f"It ended early: {_plain(stopped)}.")
    if failed := summary.get("failed"):
        lines.append(f"Messages without a usable reply: {failed}.")
    if not facts.nodes:
        lines.append("To repeat it, run the run folder's `scenario.yaml` with fedsim.")
    return _list(*lines)


def _limits(facts: _Facts) -> str:
    trained = "It was trained in a simulation: hospitals, networks and failures are not real ones."
    if facts.nodes:
        trained = (
            f"It was trained by a federation of {facts.nodes} nodes, each with records of its own."
        )
    lines = [
        trained,
        "It says nothing of images of another kind, device or population, and it always answers"
        + (": a picture of something else gets a class, too." if facts.about.classes else "."),
    ]
    if facts.about.classes:
        lines.append("Probabilities are not calibrated unless somebody has checked that they are.")
    if facts.about.segments:
        lines.append("What lies outside of its field of view is called background.")
    return _list(*lines)


def _load(facts: _Facts, file: str) -> str:
    about = facts.about
    call = 'model(trained.transform("image.png")[None])  # its answer, from PyTorch'
    if about.classifies:
        call = 'predict(["image.png"])  # probabilities, [n, classes]'
    if about.segments:
        call = 'segment("volume.nii.gz").labels  # on the voxels of the file'
    owner = f", client={about.client!r}" if about.client else ""
    verb = f" --client {shlex.quote(about.client)}" if about.client else ""
    return (
        "```python\nimport fedsim\n\n"
        f'trained = fedsim.load_model("RUN"{owner})  # this folder, or {file} alone\n'
        f"trained.{call}\n```\n"
        + (f"\n```sh\nfedsim predict RUN FILE{verb}\n```\n" if about.answers else "")
    )


def _licence(facts: _Facts) -> str:
    weights = facts.pretrained
    begun = []
    if weights is not None:
        begun = [f"The first weights are from {weights.origin}. Their licence: {weights.licence}."]
        begun += weights.caveats
    return _list(
        f"{facts.about.licence[:1].upper()}{_plain(facts.about.licence[1:])}.",
        *begun,
        "Cite the method's paper, the data set, and fedsim (its `CITATION.cff`).",
    )


def _list(*lines: str) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _plugin(block: object) -> str:
    """A block that names a plugin, on one line."""
    if not isinstance(block, Mapping):
        return "unknown"
    told = [f"{k}={typed(v)}" for k, v in _said(block).items() if k != "name"]
    settings = f" ({_plain(', '.join(told))})" if told else ""
    return f"{_plain(str(block.get('name')))}{settings}"


def _said(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block without what is null, in blocks of it, too."""
    inner = {k: _said(v) if isinstance(v, Mapping) else v for k, v in block.items()}
    return {k: v for k, v in inner.items() if v is not None}


def _plain(text: str) -> str:
    """Anybody's text as Markdown shows it: on one line, and no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """The same between backquotes."""
    return " ".join(text.split()).replace("`", "'").replace("\\", "")
