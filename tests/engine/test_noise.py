"""The noise of whole runs: whose it is, what it is keyed by, and where its key lies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from safetensors.numpy import save_file

from fedsim import InputError, Observer, Result, RunError
from fedsim.api import estimate, resume
from fedsim.engine.assembly import assembled
from fedsim.engine.prepare import prepare
from fedsim.engine.privacy import privacy_plan
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.folder.cleaning import checkpoints
from fedsim.models.build import first_arrays
from fedsim.observers import Exchange
from fedsim.privacy import key_file
from fedsim.privacy.mechanisms import DPSGD, State
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.run_key import run_digest
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.terminal.console import Console
from tests.engine.test_bits import assert_same, model
from tests.engine.test_privacy import PRIVATE

QUIET = Console(quiet=True)
SECRET = (*PRIVATE, "privacy.noise=secret")
KEY = bytes(range(100, 132))


def without_last_record(federation: Federation) -> Federation:
    """The same data, one record of the first client gone."""
    first = next(iter(federation.train))
    return replace(federation, train=federation.train | {first: federation.train[first][:-1]})


def go(scenario: Scenario, seed: int, federation: Federation) -> None:
    """Run it without a folder."""
    with assembled(prepare(scenario, seed, federation=federation)) as rounds:
        rounds.run()


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The noise of every release as it left, in units of its released standard deviation."""
    found: list[torch.Tensor] = []
    original = DPSGD.aggregate

    def watched(self: DPSGD, gradients: Any, state: State, rng: Any) -> Any:
        parts = [gradients] if isinstance(gradients, torch.Tensor) else list(gradients)
        released = original(self, parts, state, rng)
        clean = original(replace(self, noise_multiplier=0.0), parts, state, rng)
        away = released[0].update.double() - clean[0].update.double()
        found.append(away * self.expected_batch / (self.noise_multiplier * self.max_grad_norm))
        return released

    monkeypatch.setattr(DPSGD, "aggregate", watched)
    return found


LEVELS = {
    "at the clients": "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3}",
    "at the server": "privacy={noise_multiplier: 1.0, unit: client, delta: 1e-2}",
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("noise", ["seeded", "secret"])
def test_no_combination_of_releases_has_less_noise_than_independent_ones(
    level: str, noise: str, tiny: Path, noises: list[torch.Tensor]
) -> None:
    """Over two epsilons, two data sets that differ by one record, two numbers of clients.

    The variance of a combination with weights w (in units of the released sigmas) is w' G w, so
    none is quieter than the smallest eigenvalue of G allows. For independent noise of dimension d
    that is about (1 - sqrt(K / d))^2.
    """
    words = [*PRIVATE[:1], LEVELS[level], "client.steps=2", f"privacy.noise={noise}", "rounds=2"]
    words += ["strategy.weighting=uniform"]
    base = load(tiny, words)
    federation = build_federation(base, 0)
    go(base, 0, federation)
    go(load(tiny, [*words, "privacy.noise_multiplier=2.0"]), 0, federation)
    go(base, 0, without_last_record(federation))
    fewer = load(tiny, [*words, "federation.clients=3"])
    go(fewer, 0, build_federation(fewer, 0))
    drawn = torch.stack(noises)
    count, width = drawn.shape
    # Clients, rounds and steps; at the server rounds alone.
    assert count == (sum((4, 4, 4, 3)) * 2 * 2 if level == "at the clients" else 4 * 2)
    gram = drawn @ drawn.T / width
    least = float(torch.linalg.eigvalsh(gram)[0])
    assert least > (1 - (count / width) ** 0.5) ** 2 - 5 / width**0.5
    assert float((gram - torch.diag(gram.diag())).abs().max()) < 6 / width**0.5
    assert float((gram.diag() - 1).abs().max()) < 6 * (2 / width) ** 0.5


def test_the_same_run_has_the_same_noise(tiny: Path, noises: list[torch.Tensor]) -> None:
    words = [*PRIVATE, "rounds=1"]
    scenario = load(tiny, words)
    federation = build_federation(scenario, 0)
    go(scenario, 0, federation)
    go(load(tiny, [*words[::-1], "resources.threads=1", "privacy.audit=mechanism"]), 0, federation)
    half = len(noises) // 2
    assert all(torch.equal(a, b) for a, b in zip(noises[:half], noises[half:], strict=True))


def with_noise(plan: PrivacyPlan | None, noise_multiplier: float) -> PrivacyPlan:
    """The same plan at another noise multiplier."""
    assert plan is not None
    clients = {
        name: replace(one, mechanism=replace(one.mechanism, noise_multiplier=noise_multiplier))
        for name, one in plan.clients.items()
    }
    return replace(plan, clients=clients)


def test_whatever_a_release_depends_on_is_in_its_key(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["name: misbehaving:Diverges", "class_balanced: false", "learning_rate: 0.1"]
    words = [f"client={{{', '.join(keys)}}}", PRIVATE[1]]
    base = load(tiny, words)
    activate_plugins(base)
    federation = build_federation(base, 0)
    arrays = first_arrays(base, federation.task, 0)

    def digest(
        *more: str, seed: int = 0, data: Federation = federation, first: ArrayRecord = arrays
    ) -> bytes:
        return run_digest(load(tiny, [*words, *more]), seed, data, first)

    def of_init(shift: float) -> bytes:
        """The same path, other contents."""
        values = {name: np.array(value.numpy()) for name, value in arrays.items()}
        values["classifier.bias"] = values["classifier.bias"] + np.float32(shift)
        save_file(values, path := tmp_path / "init.safetensors")
        scenario = load(tiny, [*words, f"model.init={path}"])
        return run_digest(scenario, 0, federation, first_arrays(scenario, federation.task, 0))

    swapped = dict(reversed(federation.train.items()))
    other_contents = replace(federation.store, fingerprint="another")
    different = [
        digest(),
        digest("privacy.noise_multiplier=1.1"),
        digest("privacy.max_grad_norm=2.0"),
        digest("client.learning_rate=0.2"),
        digest("rounds=3"),
        digest("federation.clients=3"),
        digest("strategy.weighting=uniform"),
        digest(seed=1),
        digest(data=without_last_record(federation)),
        digest(data=replace(federation, train=swapped)),
        digest(data=replace(federation, store=other_contents)),
        of_init(0.25),
        of_init(0.5),
        # What rounds in another way releases something else.
        digest("resources.threads=2"),
        digest("resources.server_threads=2"),
        digest("resources.gpus=1.0"),
        run_digest(base, 0, federation, arrays, planned := privacy_plan(base, federation)),
        # What the search for the noise finds may change with the libraries.
        run_digest(base, 0, federation, arrays, with_noise(planned, 1.0 + 1e-12)),
    ]
    for package in (torch, np):
        with monkeypatch.context() as patch:
            patch.setattr(package, "__version__", "another")
            different.append(digest())
    assert len(set(different)) == len(different)
    same = [
        digest("resources.backend=ray"),
        digest("resources.workers=1"),
        digest("seeds=[0, 1]"),
        digest("privacy.audit=mechanism"),
        digest(f"client={{{', '.join(keys[::-1])}}}"),
    ]
    assert set(same) == {digest()}
    # Neither does the folder count in which the same file lies.
    (tmp_path / "elsewhere").mkdir()
    before = of_init(0.25)
    moved = tmp_path / "elsewhere" / "first.safetensors"
    os.replace(tmp_path / "init.safetensors", moved)
    scenario = load(tiny, [*words, f"model.init={moved}"])
    assert before == run_digest(scenario, 0, federation, first_arrays(scenario, federation.task, 0))


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("from fedsim.clients.supervised import Supervised\nclass Own(Supervised): pass\n", "one"),
        ("from fedsim.clients.supervised import Supervised as Own\n", "two"),
        ("from noise_base import Base\nclass Own(Base): pass\n", "base"),
        (
            "from fedsim.clients.supervised import Supervised\nclass Own(Supervised):\n"
            "    def fit(self, *args):\n        from noise_part.rates import SIZE\n",
            "part/rates",
        ),
    ],
    ids=["its class", "its module", "its base", "what it imports late"],
)
def test_the_code_of_a_plugin_is_in_the_key(
    code: str, changed: str, tiny: Path, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    base = "from fedsim.clients.supervised import Supervised\nclass Base(Supervised): pass\n"
    own = changed
    if changed == "base":
        own = "three"
        (plugins / "noise_base.py").write_text(base)
    if changed == "part/rates":
        own = "four"
        (plugins / "noise_part").mkdir()
        (plugins / "noise_part" / "__init__.py").touch()
        (plugins / "noise_part" / "rates.py").write_text("from . import sizes\nSIZE = 1\n")
        (plugins / "noise_part" / "sizes.py").write_text("SIZE = 1\n")
    (plugins / f"noise_{own}.py").write_text(code)
    scenario = load(tiny, [*PRIVATE, f"client.name=noise_{own}:Own", f"plugins=[{plugins}]"])
    activate_plugins(scenario)
    federation = build_federation(scenario, 0)
    arrays = first_arrays(scenario, federation.task, 0)
    before = run_digest(scenario, 0, federation, arrays)
    assert before == run_digest(scenario, 0, federation, arrays)
    with (plugins / f"noise_{changed}.py").open("a") as file:
        file.write("RATE = 2\n")
    assert before != run_digest(scenario, 0, federation, arrays)


# --- Secret noise --------------------------------------------------------------------------------


@pytest.fixture
def known_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system draws this key."""
    monkeypatch.setattr(key_file.secrets, "token_bytes", lambda count: KEY[:count])


def holders(folder: Path) -> set[str]:
    """Files with the key in them, as bytes or as text."""
    texts = KEY, KEY.hex().encode(), repr(KEY).encode(), repr(list(KEY)).encode()[1:-1]
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    }


class Interrupts(Observer):
    """Stops a run when the clients of a round beyond `last` are about to be asked."""

    essential = True

    def __init__(self, last: int) -> None:
        self.last = last

    def exchange(self, exchange: Exchange) -> None:
        if exchange.round > self.last:
            raise KeyboardInterrupt


def test_runs_with_secret_noise_differ_and_keep_nothing_of_their_key(
    run_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run_tiny(*SECRET), run_tiny(*SECRET, quiet=False)
    assert any((model(one)[name] != model(other)[name]).any() for name in model(one))
    for result in (one, other):
        assert not list(result.folder.rglob("*noise.key*"))
        told = json.loads((result.folder / "run.json").read_text())["privacy"]["randomness"]
        assert told.startswith("secret")
    out = capsys.readouterr().out
    assert "; secret randomness" in out
    assert "simulation" not in out
    assert one.summary["epsilon"] == other.summary["epsilon"]


def test_without_noise_the_sample_is_secret_still(run_tiny: Callable[..., Result]) -> None:
    words = (*SECRET, "privacy.noise_multiplier=0.0", "rounds=1")
    one, other = run_tiny(*words), run_tiny(*words)
    assert any((model(one)[name] != model(other)[name]).any() for name in model(one))


@pytest.mark.parametrize("word", ["client.augment=siamese", "model={name: odd_models:Dropping}"])
def test_what_clients_draw_besides_is_secret_too(
    word: str, run_tiny: Callable[..., Result]
) -> None:
    """Without noise, and with all records in each sample, augmentations or dropout alone differ.

    What is drawn for a record may hang on other records: who knew the seed would know it.
    """
    words = (*SECRET, "privacy.noise_multiplier=0.0", "privacy.expected_batch=1000", "rounds=1")
    one, other, plain, same = (
        model(run_tiny(*words, *more, "client.steps=1")) for more in ([word], [word], [], [])
    )
    assert any((one[name] != other[name]).any() for name in one)
    assert all((plain[name] == same[name]).all() for name in plain)


def test_secret_noise_at_the_server_differs(run_tiny: Callable[..., Result]) -> None:
    words = (PRIVATE[0], LEVELS["at the server"], "strategy.weighting=uniform", "rounds=1")
    one, other = (run_tiny(*words, "privacy.noise=secret") for _ in range(2))
    assert any((model(one)[name] != model(other)[name]).any() for name in model(one))
    assert_same(run_tiny(*words), run_tiny(*words))


def test_an_interrupted_run_keeps_its_key_goes_on_in_ray_and_erases_it(
    run_tiny: Callable[..., Result],
    tmp_path: Path,
    known_key: None,
) -> None:
    whole = run_tiny(*SECRET, "rounds=3")
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*SECRET, "rounds=3", observers=[Interrupts(1)])
    finally:
        os.umask(before)
    folder = Path(str(stopped.value))
    key = folder / "checkpoint" / "noise.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert holders(folder) == {"checkpoint/noise.key"}
    again = resume(folder, ["resources.backend=ray"], QUIET)
    assert_same(whole, again)
    assert not key.exists()
    assert holders(tmp_path) == set()
    assert resume(folder, [], QUIET).metrics == again.metrics


@pytest.mark.parametrize("damage", ["gone", "short", "long", "link", "folder", "fifo"])
def test_a_resume_without_the_key_is_refused(
    damage: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_tiny(*SECRET, observers=[Interrupts(0)])
    folder = Path(str(stopped.value))
    key = folder / "checkpoint" / "noise.key"
    kept = key.read_bytes()
    key.unlink()
    (elsewhere := tmp_path / "key").write_bytes(kept)
    match damage:
        case "short":
            key.write_bytes(kept[:-1])
        case "long":
            key.write_bytes(kept + b"\n")
        case "link":
            key.symlink_to(elsewhere)
        case "folder":
            key.mkdir()
        case "fifo":
            os.mkfifo(key)
    with pytest.raises(InputError, match=r"noise\.key") as refused:
        resume(folder, [], QUIET)
    # Links out of a folder, and pipes in it, are refused as all such are.
    said = {"link": "a copy", "fifo": "remove it"}.get(damage, "fedsim run")
    assert said in refused.value.hint
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"


def test_a_failed_run_keeps_its_key_and_cleaning_takes_it(
    run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(RunError):
        run_tiny(*SECRET, "strategy=misbehaving:Deaf")
    (key,) = (tmp_path / "runs").rglob("noise.key")
    folder = key.parents[1]
    (item,) = checkpoints([folder], sure=True)
    assert key in item.files
    assert not item.kept


def test_a_trial_writes_no_key(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    estimate(load(tiny, list(SECRET)), 0, QUIET)
    assert sorted(tmp_path.rglob("*")) == before


def test_seeded_noise_is_called_a_simulation(
    run_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_tiny(*PRIVATE, "rounds=1", quiet=False)
    assert "simulation-grade randomness" in capsys.readouterr().out
    told = json.loads((result.folder / "run.json").read_text())["privacy"]["randomness"]
    assert told.startswith("simulation-grade")
    assert not list(result.folder.rglob("*noise.key*"))


def test_erasing_a_key_touches_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "model").write_bytes(KEY)
    place = tmp_path / "checkpoint" / "noise.key"
    place.symlink_to(tmp_path / "model")
    key_file.KeyFile(tmp_path).erase()
    assert (tmp_path / "model").read_bytes() == KEY
    place.unlink()
    os.mkfifo(place)
    key_file.KeyFile(tmp_path).erase()
    place.unlink()
    place.write_bytes(KEY)
    key_file.KeyFile(tmp_path).erase()
    assert not place.exists()
