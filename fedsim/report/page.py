"""The page of a run: one HTML file that holds everything, asks nothing of a network, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsim.report.drawing import Picture
from fedsim.report.figures import NAMES, figures
from fedsim.report.html import image, items, page, paragraph, section, table
from fedsim.report.many import MANY, TITLES, some, spread_rows
from fedsim.report.paths import hidden
from fedsim.report.record import METRIC_NAMES, NUMBER, Record, read_record
from fedsim.report.sheets import sheet_names
from fedsim.report.text import typed
from fedsim.runfolder import RunFolder, write_whole

# Keys of run.json that the page shows elsewhere than in the table of the environment.
_TOLD = (
    "schema_version",
    "scenario",
    "seed",
    "data",
    "privacy",
    "released_without_privacy",
    "versions",
    "status",
)
_EXTERNAL = "external_"  # Begins the names of scores on external records.
_FAILURES = 30  # Rows, and rounds in a row; rounds.jsonl has all.
_SHEET_MB = 8.0  # Larger sheets are named, not embedded.
_SHEETS = 10  # of many clients


def write_report(folder: Path, *, paths: bool = False) -> Path:
    """Make or refresh `report/` of a run: the page, the figures, and the CSV behind each.

    Args:
        folder: the run folder; nothing else is read.
        paths: whether absolute paths are shown whole, instead of their ends.

    Returns:
        The path of the page.

    Raises:
        InputError: it is no run folder, or files of it are missing or corrupted.
    """
    return write_page(read_record(folder), paths=paths)


def write_page(record: Record, *, paths: bool = False) -> Path:
    """`write_report` of a run folder that has been read already."""
    RunFolder(record.path).require_contained()
    if not paths:
        record = hidden(record)
    folder = record.path / "report"
    drawn = figures(record)
    for picture in drawn:
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.csv", picture.csv)
    for name in set(NAMES) - {picture.name for picture in drawn}:
        # A run that was resumed from an earlier round may have less to show than it had.
        (folder / f"{name}.png").unlink(missing_ok=True)
        (folder / f"{name}.csv").unlink(missing_ok=True)
    path = folder / "index.html"
    write_whole(path, build_page(record, drawn).encode())
    return path


def build_page(record: Record, drawn: list[Picture]) -> str:
    """The page as HTML, with the figures in it."""
    sections = [
        section("What was run", _what(record)),
        section("Result", _result(record)),
        section("Costs", _costs(record)),
        section("Privacy", _privacy(record)),
        section("Failed clients", _failures(record)),
    ]
    if drawn:
        sections.append(section("Figures", "".join(_figure(picture) for picture in drawn)))
    if synthetic := _synthetic(record):
        sections.append(section("What the clients sent", synthetic))
    if (record.path / "segmentation" / "overlays.png").is_file():
        told = (
            "segmentation/overlays.png shows test cases with truth and prediction. They may be "
            "patients' images, which this page does not hold."
        )
        sections.append(section("Segmentations", paragraph(told)))
    sections.append(section("Environment", _environment(record)))
    warnings = []
    if record.note:
        name = record.run["data"]["name"]
        warnings.append(f"Not {name}, but its {record.note}. The numbers say nothing about {name}.")
    if record.run["status"] != "done":
        warnings.append(f"This run is not done: its status is {record.run['status']!r}.")
    return page(record.title, warnings, sections, ("Resolved scenario", record.scenario_text))


def _what(record: Record) -> str:
    run, scenario, data = record.run, record.scenario, record.run["data"]
    federation = scenario.get("federation") or {}
    stand_in = data["source"] == "embedded"
    rows = [
        ("scenario", run["scenario"]),
        ("description", scenario.get("description")),
        ("seed", run["seed"]),
        ("status", run["status"]),
        ("data", f"embedded stand-in for {data['name']}" if stand_in else data["name"]),
        ("read from", data.get("root")),
        ("fingerprint of the data", data.get("fingerprint")),
        ("positive class", data.get("positive")),
        ("grey values", data.get("window")),
        ("records", ", ".join(f"{n} {split}" for split, n in data.get("sizes", {}).items())),
        ("clients", len(record.clients) or federation.get("clients")),
        ("participation", _percent(federation.get("participation"))),
        ("partition", _plugin(federation.get("partition"))),
        ("model", _plugin(scenario.get("model"))),
        ("strategy", _plugin(scenario.get("strategy"))),
        ("client", _plugin(scenario.get("client"))),
        ("rounds", f"{len(record.rounds)} of {scenario.get('rounds')}"),
    ]
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    missing = ""
    if record.missing:
        missing = paragraph("Not in this folder:") + items(record.missing)
    return table(("what", "value"), shown, "The run") + missing


def _percent(share: object) -> str | None:
    return f"{share:.3%}".replace(".000%", "%") if isinstance(share, NUMBER) else None


def _plugin(block: object) -> str | None:
    """A block of the scenario that names a plugin, on one line."""
    if not isinstance(block, dict):
        return None
    told = {k: typed(v) for k, v in block.items() if k != "name" and v is not None}
    settings = ", ".join(f"{k}={v}" for k, v in told.items())
    return f"{block.get('name')} ({settings})" if settings else str(block.get("name"))


def _result(record: Record) -> str:
    metrics, told = {}, "There is no result: no round has finished."
    if record.summary is not None:
        metrics, told = record.summary["metrics"], "The final model on the test split."
    elif record.rounds:
        last = record.rounds[-1]
        metrics = {k: v for k, v in last["metrics"].items() if not k.startswith("train_")}
        told = f"The run has not finished; this is the model after round {last['round']}."
    if record.probabilities is not None and len(record.probabilities) > 1:
        told += f" Each of {len(record.probabilities)} clients has its own model: means over them."
    outside = {k: v for k, v in metrics.items() if k.startswith(_EXTERNAL)}
    travels = {k: v for k, v in metrics.items() if k.endswith(("@own", "@others"))}
    plain = {k: v for k, v in metrics.items() if k not in outside and k not in travels}
    overall = [(_name(k), v) for k, v in plain.items() if "@" not in k]
    parts = [paragraph(told)]
    if overall:
        title = f"On the whole test split{record.positive}"
        parts.append(table(("metric", "value"), overall, title))
    if outside:
        told_of = [(_name(k.removeprefix(_EXTERNAL)), v) for k, v in outside.items()]
        title = "On external records, which no client has"
        parts.append(table(("metric", "value"), told_of, title))
    if travels:
        places = {"own": "at home", "others": "elsewhere"}
        told_of = [
            (f"{_name(metric)} {places[place]}", value)
            for (metric, _, place), value in ((k.partition("@"), v) for k, v in travels.items())
        ]
        title = "Each client's model at its own site, and at the others: means over clients"
        parts.append(table(("metric", "value"), told_of, title))
    by_site = {key: value for key, value in plain.items() if "@" in key}
    if by_site:
        parts.append(_by_site(by_site))
    return "".join(parts)


def _by_site(metrics: dict[str, Any]) -> str:
    """Scores on each site's test records: a row for each, or how those of many are spread."""
    scores: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        name, _, site = key.partition("@")
        scores.setdefault(site, {})[name] = value
    names = list(dict.fromkeys(name for of_site in scores.values() for name in of_site))
    title = "On the test records of each site"
    if len(scores) >= MANY:
        columns = {_name(k): [of_site.get(k) for of_site in scores.values()] for k in names}
        rows = spread_rows(columns)
        more = paragraph(f"summary.json has the scores of each of {len(scores)} sites.")
        return table(("metric", "sites with a value", *TITLES), rows, title) + more
    rows = [(site, *(of_site.get(name) for name in names)) for site, of_site in scores.items()]
    return table(("site", *map(_name, names)), rows, title)


def _name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def _costs(record: Record) -> str:
    rows: list[tuple[object, ...]] = []
    last = record.rounds[-1] if record.rounds else {}
    totals = record.summary or last
    if totals:
        rows += [
            ("MB up (clients to server)", totals["mb_up_total"]),
            ("MB down (server to clients)", totals["mb_down_total"]),
        ]
    seconds = sum(row.get("seconds") or 0 for row in record.rounds)
    rows.append(("seconds", record.summary["wall_seconds"] if record.summary else seconds))
    if waited := sum(row.get("delay_seconds") or 0 for row in record.rounds):
        rows.append(("simulated seconds of waiting", waited))
    rows.append(("peak memory in MB", totals.get("peak_rss_mb")))
    told = table(("cost", "value"), rows, "All rounds and clients together; MB = 10^6 bytes")
    fields: dict[str, dict[str, int]] = {}
    for message in record.traffic:
        for name, size in message["fields"].items():
            by_direction = fields.setdefault(name, {})
            direction = message["direction"]
            by_direction[direction] = by_direction.get(direction, 0) + size
    if fields:
        lines = [
            (name, *(size.get(way, 0) / 1e6 for way in ("up", "down")))
            for name, size in fields.items()
        ]
        told += table(("field", "MB up", "MB down"), lines, "Payload of the messages by field")
    return told


def _privacy(record: Record) -> str:
    summary = record.summary or {}
    planned = record.run.get("privacy") or {}
    keys = ("epsilon", "epsilon_rdp", "epsilon_claimed", "accountant", "delta", "unit", "audit")
    rows = [(key, summary[key]) for key in keys if summary.get(key) is not None]
    newest = record.rounds[-1] if record.rounds else {}
    last = newest.get("epsilon_upper", newest.get("epsilon"))
    if not record.summary and last is not None:
        rows = [("epsilon so far", last)]
    told = paragraph("No privacy mechanism: epsilon is not defined.")
    if rows:
        rows.append(("certified", "yes" if summary.get("certified") else "no"))
        if planned.get("adjacency"):
            rows.append(("neighbours", planned["adjacency"]))
        told = table(("what", "value"), rows, "Differential privacy")
        if planned.get("unit_note"):
            told += paragraph(planned["unit_note"])
    told += _planned(record.run.get("privacy"))
    released = record.run.get("released_without_privacy") or []
    if released:
        told += paragraph("Released without a privacy mechanism:") + items(released)
    return told


def _planned(plan: object) -> str:
    """What a private run was to release: the mechanism, and what it is for each client."""
    if not isinstance(plan, dict):
        return ""
    rows = [
        (key.replace("_", " "), typed(value))
        for key, value in plan.items()
        if key != "clients" and value is not None
    ]
    told = table(("what", "value"), rows, "As it was planned")
    clients = plan.get("clients")
    if not isinstance(clients, dict) or not all(isinstance(c, dict) for c in clients.values()):
        return told
    names = list(dict.fromkeys(name for client in clients.values() for name in client))
    title = "What a client releases in a round"
    if len(clients) >= MANY:
        columns = {
            name.replace("_", " "): [
                value if isinstance(value := client.get(name), NUMBER) else None
                for client in clients.values()
            ]
            for name in names
        }
        more = paragraph(f"run.json has it for each of {len(clients)} clients.")
        return told + table(("what", "clients", *TITLES), spread_rows(columns), title) + more
    lines = [(name, *(client.get(k) for k in names)) for name, client in clients.items()]
    return told + table(("client", *(k.replace("_", " ") for k in names)), lines, title)


def _failures(record: Record) -> str:
    """Messages without a usable reply: each client and reason once, with its rounds."""
    if not record.failures:
        return paragraph("None.")
    rounds: dict[tuple[str, ...], list[int]] = {}
    for one in record.failures:
        client = record.client_name(one.get("client", ""))
        what = tuple(str(one.get(key, "")) for key in ("phase", "kind", "reason"))
        rounds.setdefault((client, *what), []).append(one["round"])
    rows = []
    for told, numbers in list(rounds.items())[:_FAILURES]:
        more = f" and {len(numbers) - _FAILURES} more" if len(numbers) > _FAILURES else ""
        rows.append((*told, ", ".join(map(str, numbers[:_FAILURES])) + more))
    header = ("client", "phase", "kind", "reason", "rounds")
    body = table(header, rows, f"{len(record.failures)} messages led to no usable reply")
    if len(rounds) > _FAILURES:
        body += paragraph(f"{len(rounds) - _FAILURES} more are in rounds.jsonl.")
    return body


def _figure(picture: Picture) -> str:
    return image(
        picture.png,
        alt=f"{picture.title}. {picture.alt}",
        caption=picture.caption,
        source=f"{picture.name}.csv",
    )


def _synthetic(record: Record) -> str:
    """The sheets of what was sent, and the numbers of the check for copies of real images.

    Only sheets of sent images are embedded: other pictures of the folder may show patients'.
    """
    folder = record.path / "synthetic"
    sheets = [folder / "sheet.png"]
    if not sheets[0].is_file():
        clients = some(record.clients, _SHEETS) if len(record.clients) >= MANY else record.clients
        names = sheet_names(record.clients)
        sheets = [folder / f"{names[client]}.png" for client in clients]
    parts = []
    for sheet in sheets:
        if not sheet.is_file():
            continue
        if sheet.stat().st_size > _SHEET_MB * 1e6:
            parts.append(paragraph(f"synthetic/{sheet.name} is too large to be shown here."))
            continue
        told = "Synthetic images that the clients sent to the server, in rows by class."
        caption = f"{told} {record.note.capitalize()}." if record.note else told
        parts.append(image(sheet.read_bytes(), alt=told, caption=caption, source=None))
    if record.leakage is not None:
        parts.append(_leakage(record.leakage))
    if (folder / "nearest_pairs.png").is_file():
        told = "synthetic/nearest_pairs.png shows them beside the nearest training images"
        why = "" if record.note else ", which are real: it is not part of this page, and private"
        parts.append(paragraph(f"{told}{why}."))
    return "".join(parts)


def _leakage(found: dict[str, Any]) -> str:
    """The numbers of leakage.json over all clients, with what they mean."""
    explained = found.get("explained") or {}
    rows = [
        (name.replace("_", " "), value, explained.get(key, ""))
        for part, prefix in (("overall", ""), ("membership", "membership."))
        for name, value in (found.get(part) or {}).items()
        if isinstance(value, NUMBER) and (key := prefix + name)
    ]
    signs = ", ".join(str(sign).replace("_", " ") for sign in found.get("signs") or [])
    told = f"Signs of leakage: {signs}." if signs else "No sign of leakage was measured."
    caption = "Nearness to real images, all clients together (synthetic/leakage.json)"
    return paragraph(told) + table(("measure", "value", "what it is"), rows, caption)


def _environment(record: Record) -> str:
    run = record.run
    told = [
        (key.replace("_", " "), typed(value) if isinstance(value, dict) else value)
        for key, value in run.items()
        if key not in _TOLD and value is not None
    ]
    parts = [table(("what", "value"), told, "Machine, code")]
    versions = [
        (name, version or "not installed") for name, version in run.get("versions", {}).items()
    ]
    parts.append(table(("package", "version"), versions, "Versions"))
    return "".join(parts)
