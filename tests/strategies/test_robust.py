"""The strategy `robust`: rules on the seam of averaging, with codecs, momentum and state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsim import InputError, Result, RunError
from fedsim.api import resume
from fedsim.engine.checkpoint import Checkpoints
from fedsim.errors import Interruption
from fedsim.robust import RULES
from fedsim.scenario import load
from fedsim.strategies.robust import Robust
from fedsim.strategies.server_momentum import ServerMomentum
from fedsim.terminal.console import Console
from fedsim.wire.flower import tensor_record, tensors
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same
from tests.strategies.test_server_momentum import server, step

SMALL = "client={name: supervised, batch_size: 16, steps: 2}"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def run_tiny(tiny: Path, tmp_path: Path) -> Callable[..., Result]:
    from fedsim import run

    return lambda *words: run(tiny, SMALL, *words, runs=tmp_path / "runs")


@pytest.mark.parametrize("rule", ["median", "norm_clipping", "centred_clipping"])
def test_a_client_that_sends_anything_does_not_move_the_model(rule: str) -> None:
    start = tensor_record({"w": np.ones(3, np.float32)})
    moved = step(server(Robust(rule), 3), 1, start, 0.1, 0.1, 0.1, 1e6)  # type: ignore[arg-type]
    assert np.linalg.norm(tensors(moved)["w"] - 1) < 0.5


@pytest.mark.parametrize("rule", ["trimmed_mean", "norm_clipping"])
def test_without_anybody_to_fear_it_is_server_momentum(rule: str) -> None:
    own = {"byzantine": 0} if rule == "trimmed_mean" else {"radius": 1e6}
    robust = server(Robust(rule, momentum=0.5, **own), 3)  # type: ignore[arg-type]
    plain = server(ServerMomentum(0.5, 1.0, 1.0, weighting="uniform"), 3)
    one = other = tensor_record({"w": np.zeros(4, np.float32)})
    for number in (1, 2):
        one = step(robust, number, one, 0.5, -0.1, 0.2)
        other = step(plain, number, other, 0.5, -0.1, 0.2)
    assert tensors(one)["w"] == pytest.approx(tensors(other)["w"], abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", ["float32", "uint8"])
def test_every_rule_runs_with_every_codec(
    rule: str, codec: str, run_tiny: Callable[..., Result]
) -> None:
    clients = "federation.clients=7" if rule == "bulyan" else "rounds=2"
    name = f"strategy={{name: robust, rule: {rule}, codec: {codec}, momentum: 0.3}}"
    result = run_tiny(name, clients)
    assert result.rounds[-1]["metrics"]["auc"] is not None
    assert np.isfinite([row["mb_up"] for row in result.rounds]).all()


def test_the_centre_survives_a_kill(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy={name: robust, rule: centred_clipping, radius: 0.05}", "rounds=3")
    whole = run_tiny(*words)
    save = Checkpoints.save

    def cut(self: Checkpoints, checkpoint: object) -> None:
        save(self, checkpoint)  # type: ignore[arg-type]
        if checkpoint.moment == (2, 0):  # type: ignore[attr-defined]
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_tiny(*words)
    assert_same(whole, resume(Path(str(stopped.value)), [], Console(quiet=True)))


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("{name: robust, rule: median, byzantine: 1}", "byzantine .* no effect with rule: median"),
        ("{name: robust, rule: krum, radius: 2.0}", "only with norm_clipping and centred_clipping"),
        ("{name: robust, rule: bulyan}", "Bulyan needs at least 7 clients for 1, and there are 4"),
        ("{name: robust, rule: trimmed_mean, byzantine: 2}", "needs at least 5 clients"),
        ("{name: robust, rule: krum, byzantine: 2}", "needs at least 5 clients"),
        ("{name: robust, rule: best}", "rule: expected"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    strategy: str, words: str, tiny: Path
) -> None:
    with pytest.raises(InputError, match=words):
        load(tiny, [f"strategy={strategy}"])


def test_too_few_replies_end_the_run(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(RunError, match=r"needs at least 3 clients"):
        run_tiny("strategy={name: robust, rule: trimmed_mean}", "faults={dropout: 0.7}")


def test_too_few_that_join_a_round_are_refused(run_tiny: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match=r"needs at least 3 clients"):
        run_tiny("strategy={name: robust, rule: trimmed_mean}", "federation.participation=0.5")
