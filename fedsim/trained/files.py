"""The model files of a run folder: `model.safetensors`, or one a client in `models/`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedsim.data.features.mapping import map_arrays
from fedsim.data.features.store import FeatureStore
from fedsim.errors import InputError
from fedsim.federation.holdings import Federation
from fedsim.files import file_names, require_regular
from fedsim.folder.runfolder import MODEL, MODELS, RunFolder, write_whole
from fedsim.ledger.privacy import mechanism_name
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.privacy.plan import PrivacyPlan
from fedsim.scenario import Scenario
from fedsim.trained.about import About, NotDescribedError, describe_model
from fedsim.wire import flower

SUFFIX = ".safetensors"


def write_models(
    folder: RunFolder,
    models: Sequence[ArrayRecord],
    scenario: Scenario,
    federation: Federation,
    privacy: PrivacyPlan | None,
    spent: Mapping[str, Any],
    *,
    seed: int,
    run_id: str,
    owners: Sequence[str] = (),
) -> None:
    """Write the finished models of a run, each with what it is.

    Args:
        folder: the run folder.
        models: the global model, or one a client.
        scenario, federation: what was run, and on what.
        privacy: what was released; None without a mechanism.
        spent: what that cost, the entries of summary.json.
        seed: the run's.
        run_id: the run's random name.
        owners: the clients, where each has its own model.
    """
    names = file_names(owners)
    for position, arrays in enumerate(models):
        client = owners[position] if owners else ""
        about = describe_model(
            scenario,
            federation.task,
            seed=seed,
            run_id=run_id,
            data_source=federation.store.source,
            private=_mechanism(privacy, spent, scenario),
            client=client,
        )
        # Not `ascontiguousarray`: it gives a scalar an axis.
        values = {k: np.asarray(v, order="C") for k, v in flower.tensors(arrays).items()}
        if isinstance(federation.store, FeatureStore) and about.features is not None:
            values |= map_arrays(federation.store.map)
        name = f"{MODELS}/{names[client]}{SUFFIX}" if client else MODEL
        write_whole(folder.place(name), *encoded(values, about.metadata()))


def encoded(
    values: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> tuple[bytes, memoryview]:
    """The bytes of a model file, in two parts: the same for the same model.

    The library writes metadata in an order that differs from process to process.
    """
    written = save(dict(values), metadata=dict(metadata))
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    header["__metadata__"] = dict(metadata)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the weights begin where processors like it
    return len(text).to_bytes(8, "little") + text, memoryview(written)[8 + length :]


def _mechanism(privacy: PrivacyPlan | None, found: Mapping[str, Any], scenario: Scenario) -> str:
    """The mechanism, and what was spent: both are public."""
    if privacy is None:
        return ""
    spent, claimed = found["epsilon"], found["epsilon_claimed"]
    worth = "no finite epsilon"
    if spent is not None:
        worth = f"epsilon {spent:.3g} at delta {found['delta']:g}"
    elif not found["certified"]:
        told = "" if claimed is None else f", epsilon {claimed:.3g} is claimed"
        worth = f"no guarantee{told}"
    bare = found["unit"] == "client" and scenario.federation.local is not None
    part = "; what stays at the client was trained without noise" if bare else ""
    trusts = ", if all clients mask their sums" if privacy.shares_noise else ""
    return f"{mechanism_name(privacy)}, {worth}, of every {UNIT_NAMES[found['unit']]}{trusts}{part}"


def read_about(path: Path) -> About:
    """What a model file says of itself.

    Raises:
        InputError: it cannot be read, or says nothing that fedsim understands.
    """
    try:
        require_regular(path)
        with safe_open(path, framework="np") as file:
            texts = file.metadata()
        return About.of_metadata(texts)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} cannot be read as a model file: {why}") from error
    except NotDescribedError as error:
        raise InputError(
            f"{path} cannot be used alone: {error}",
            hint="an older fedsim, or another program, wrote it; run the scenario again",
        ) from error


def model_file(folder: Path, client: str | None = None) -> Path:
    """The model file of a run folder.

    Args:
        folder: the run folder.
        client: whose, where each client has its own; None for the global one, or the only one.

    Raises:
        InputError: there is none, or several to choose from.
    """
    if (folder / MODEL).is_file():
        if client is not None:
            raise InputError(
                f"{folder} has one model for all clients, none of {client!r}",
                hint="leave out --client",
            )
        return folder / MODEL
    found = sorted((folder / MODELS).glob(f"*{SUFFIX}"))
    if not found:
        raise InputError(
            f"{folder} has no {MODEL}: the run has not finished, or an older fedsim ran it",
            hint=f"to go on with it, type: fedsim run --resume {folder}",
        )
    owners = {read_about(path).client: path for path in found}
    if client is None and len(owners) == 1:
        return found[0]
    if client is None or client not in owners:
        what = "each client has its own model" if client is None else f"no client is {client!r}"
        shown = ", ".join(list(owners)[:_SHOWN])
        more = f" and {len(owners) - _SHOWN} more" if len(owners) > _SHOWN else ""
        raise InputError(
            f"{folder}: {what}; there are those of {shown}{more}", hint="choose one: --client NAME"
        )
    return owners[client]


_SHOWN = 20
