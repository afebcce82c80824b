"""Runs in MLflow: settings, numbers by round, and the results; a resumed run goes on in its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from fedsim.files import file_name, require_regular
from fedsim.locks import waited
from fedsim.observers.base import End, Observer, Row, Run
from fedsim.observers.tracking import (
    ARTIFACTS,
    MARKER,
    facts,
    numbers,
    require,
    results,
    settings,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Kept

_Item = TypeVar("_Item")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_RUN_ID = "fedsim.run_id"
_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# MLflow's own limits: of a name, a parameter's value, a tag's value, and of one request.
_NAME, _VALUE, _TAG, _METRICS, _PARAMETERS = 250, 6000, 5000, 1000, 100
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# A run waits for its tracker: MLflow would ask a server that is away for minutes.
_UNLESS_SET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflow(Observer):
    """Keeps runs in MLflow: in an SQLite file beside the runs folder, or where one says.

    One run is one MLflow run, found again by its tag `fedsim.run_id`. Metrics have the round as
    their step. `final/...` are the results of summary.json.

    Args:
        uri: the tracking store, as MLflow names it, or the path of an SQLite file. By default what
            the environment variable MLFLOW_TRACKING_URI says, else `mlflow.db` beside the runs
            folder.
        experiment: its name; by default what MLFLOW_EXPERIMENT_NAME says, else the scenario's name.
        artifacts: whether the page, the model and the other results are copied into the store.

    Raises:
        ValueError: a package is missing, or the store is none that MLflow takes.
    """

    def __init__(
        self, uri: str | None = None, experiment: str | None = None, artifacts: bool = True
    ) -> None:
        require("mlflow", "mlflow")
        if uri is not None and urlsplit(uri).password:
            raise ValueError(
                "uri has a password, which files of the run would keep; put the address into the "
                "environment variable MLFLOW_TRACKING_URI instead"
            )
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
        self._store = None if uri is None else _store(uri)
        if not isinstance(self._store, str) or _is_database(self._store):
            require("sqlalchemy", "mlflow")
            require("alembic", "mlflow")
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or None
        self._artifacts = artifacts

    def begin(self, run: Run) -> None:
        """Find the MLflow run, or make one, and add the rounds that it lacks."""
        self._clients = run.clients
        self._private = bool(run.about.get("privacy"))
        # runs/<scenario>/<run>: beside `runs`.
        store = self._store or run.folder.parents[2] / "mlflow.db"
        experiment = self._experiment or run.scenario
        with _quiet():
            uri = store if isinstance(store, str) else _sqlite(store)
            self._client = _open(uri)
            kept = self._find(run, experiment, uri)
            self._id = kept.info.run_id
            self._describe(run, kept)
            steps = self._client.get_metric_history(self._id, MARKER)
            self._rounds = {one.step for one in steps}
            # A kill between two requests leaves a part of a round behind.
            self._partly = bool(kept.data.metrics)
            for row in run.rows:
                self._keep(row)
        where = f", in {store}" if isinstance(store, Path) else ""
        run.say(f"MLflow: experiment {experiment!r}, run {run.folder.name}{where}")

    def round(self, row: Row) -> None:
        """Keep the numbers of a round."""
        with _quiet():
            self._keep(row)

    def end(self, end: End) -> None:
        """Copy the results, and say how the run ended."""
        with _quiet():
            if end.status == "done":
                self._log(results(end.summary or {}), max(self._rounds, default=0))
                for name in ARTIFACTS if self._artifacts else ():
                    self._copy(end.folder / name)
            elif end.error and not self._private:  # it may quote a record
                self._client.set_tag(self._id, "fedsim.error", end.error[:_TAG])
            self._client.set_terminated(self._id, _STATUS[end.status])

    def _find(self, run: Run, experiment: str, uri: str) -> Kept:
        client = self._client
        number = _experiment(client, experiment, uri)
        query = f"tags.`{_RUN_ID}` = '{run.id}'"
        if found := client.search_runs([number], query, order_by=["attribute.start_time ASC"]):
            client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0]
        # The tag is there from the first moment on: a kill leaves no run that is not found again.
        return client.create_run(number, tags={_RUN_ID: run.id}, run_name=run.folder.name)

    def _describe(self, run: Run, kept: Kept) -> None:
        """Write settings and tags; what is there stays, as MLflow's parameters never change."""
        from mlflow.entities import Param, RunTag

        told = {f"fedsim.{name}": value[:_TAG] for name, value in facts(run).items()}
        told |= {"mlflow.source.name": f"fedsim run {run.scenario}", "mlflow.source.type": "JOB"}
        tags = [RunTag(name, value) for name, value in told.items()]
        self._client.log_batch(self._id, tags=tags, synchronous=True)
        parameters = [
            Param(_name(name), _cut(value))
            for name, value in settings(run).items()
            if _name(name) not in kept.data.params
        ]
        for some in _batches(parameters, _PARAMETERS):
            self._client.log_batch(self._id, params=some, synchronous=True)
        if self._artifacts and not kept.data.params:
            self._copy(run.folder / "scenario.yaml")

    def _keep(self, row: Row) -> None:
        """Write a round, unless it is there."""
        number = row["round"]
        if number in self._rounds:
            return
        found = numbers(row, self._clients)
        if self._partly:
            found = {name: value for name, value in found.items() if not self._has(name, number)}
            self._partly = False
        self._log(found, number)
        self._rounds.add(number)

    def _has(self, name: str, step: int) -> bool:
        history = self._client.get_metric_history(self._id, _name(name))
        return any(one.step == step for one in history)

    def _log(self, found: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(_name(name), value, now, step) for name, value in found.items()]
        for some in _batches(metrics, _METRICS):
            self._client.log_batch(self._id, metrics=some, synchronous=True)

    def _copy(self, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._id, str(path), path.name)
        elif path.is_file():
            self._client.log_artifact(self._id, str(path))


# --- The store -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let MLflow work meanwhile, without telemetry or words of its own; nothing of it stays."""
    before, disabled = dict(os.environ), logging.root.manager.disable
    os.environ.update(_UNLESS_SET | before | _ALWAYS)
    # What goes wrong is raised, too.
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for name in (*_ALWAYS, *_UNLESS_SET):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _store(uri: str) -> str | Path:
    """The address of a store; what is no address is the path of an SQLite file.

    Raises:
        ValueError: it is a folder, into which MLflow no longer writes.
    """
    scheme = urlsplit(uri).scheme
    folder = uri.removeprefix("file://").removeprefix("file:")
    if scheme == "file" or (not scheme and os.path.isdir(uri)):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return uri
        raise ValueError(
            f"uri {uri!r} is a folder, and MLflow keeps runs in a file today: write "
            f"{os.path.join(folder, 'mlflow.db')}, or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    if scheme or uri.startswith("databricks"):
        return uri
    try:
        require_regular(uri)
    except OSError as error:
        raise ValueError(f"uri {uri!r}: {error.strerror}") from error
    return Path(uri).absolute()


def _sqlite(file: Path) -> str:
    """The address of an SQLite file, whatever its name holds."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _file(uri: str) -> Path | None:
    """The SQLite file of a store; None for another store."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy import make_url

    name = make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" else None


def _is_database(uri: str) -> bool:
    return urlsplit(uri).scheme.partition("+")[0] in _DATABASES


def _open(uri: str) -> MlflowClient:
    """A client of the store; an SQLite file is made where there is none."""
    from mlflow import MlflowClient

    if _is_database(uri):
        import sqlalchemy

        if file := _file(uri):
            file.parent.mkdir(parents=True, exist_ok=True)
        # MLflow itself asks a database that it does not reach for minutes.
        engine = sqlalchemy.create_engine(uri)
        try:
            sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()
    # Two runs that begin at once would both make the tables.
    with waited(file.parent) if (file := _file(uri)) else contextlib.nullcontext():
        return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The number of an experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    place = None
    if file := _file(uri):
        # Beside the file, whatever folder a run is started in.
        place = (file.parent / "mlruns" / file_name(name)).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        # Another run may have made it meanwhile.
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


# --- MLflow's limits -----------------------------------------------------------------------------


def _name(name: str) -> str:
    """A metric's or parameter's name with what MLflow takes: `auc@site-1` is `auc at site-1`."""
    plain = re.sub(r"[^/\w.\- :]", "_", name.replace("@", " at "))
    plain = "/".join(part for part in plain.split("/") if part not in ("", ".", "..")) or "_"
    if len(plain) <= _NAME:
        return plain
    return f"{plain[: _NAME - 9]}-{sha256(name.encode()).hexdigest()[:8]}"


def _cut(value: str) -> str:
    """A parameter's value; of a long one the beginning: scenario.yaml holds it wholly."""
    return value if len(value) <= _VALUE else f"{value[: _VALUE - 3]}..."


def _batches(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
