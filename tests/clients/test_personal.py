"""Personalised methods: closed forms on quadratics, and what is promised of whole runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file
from torch import Tensor, nn

from fedsim import InputError, Result, Site, run
from fedsim.clients.apfl import APFL
from fedsim.clients.ditto import Ditto
from fedsim.clients.fed_babu import FedBABU
from fedsim.clients.fed_distill import Said, distillation
from fedsim.clients.fed_proto import distance
from fedsim.clients.fed_rep import FedRep
from fedsim.clients.pfedme import PFedMe
from fedsim.folder.runfolder import RunFolder
from fedsim.method import Criterion
from fedsim.randomness import Streams
from fedsim.statistics import ClassMeans, averaged_means
from fedsim.strategies.fed_distill import FedDistill
from fedsim.strategies.fed_proto import FedProto
from fedsim.strategies.pfedme import PFedMe as PFedMeServer
from fedsim.wire import pack_state, tensor_record, tensors
from fedsim.wire.flower import configure_identity
from tests.engine.conftest import TINY

TARGET = torch.tensor([3.0, -1.0])
SHARED = torch.tensor([1.0, 1.0])


class Point(nn.Module):
    """A model whose loss here is 1/2 |body + head - TARGET|^2, whatever it sees."""

    head = "end"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.zeros(2))
        self.end = nn.Parameter(torch.zeros(2))

    def forward(self, images: Tensor) -> Tensor:
        return (self.body + self.end).expand(len(images), 2)


class Quadratic:
    """Beside a client method: a quadratic in the place of cross-entropy."""

    def criterion(self, site: Site) -> Criterion:
        return lambda logits, labels: (logits - TARGET).square().sum(dim=1).mean() / 2


def quadratic(kind: type, **parameters: Any) -> Any:
    made = type(kind.__name__, (Quadratic, kind), {})
    plain = {"steps": 400, "batch_size": 2, "learning_rate": 0.1, "momentum": 0.0}
    return made(**(plain | parameters))


def site(**parts: Any) -> Site:
    records: Any = SimpleNamespace(
        images=lambda chosen: torch.zeros(len(chosen), 1), labels=torch.tensor([0, 1, 0, 1])
    )
    view = type("Records", (), {"__len__": lambda _: 4})()
    view.__dict__.update(vars(records))
    values: dict[str, Any] = {
        "client": 0,
        "name": "one",
        "round": 1,
        "rounds": 1,
        "task": SimpleNamespace(num_classes=2),
        "train": view,
        "val": view,
        "state": RecordDict(),
        "device": torch.device("cpu"),
        "new_model": Point,
        "first_arrays": lambda: pack_state(Point().state_dict()),
        "steps": lambda total, label: range(total),
        "_streams": Streams(0),
    }
    return Site(**(values | parts))


def sent(stays: tuple[str, ...] = (), **weights: Tensor) -> RecordDict:
    arrays = pack_state({"body": SHARED, "end": torch.zeros(2)} | weights)
    content = RecordDict({"arrays": arrays, "config": ConfigRecord()})
    if stays:
        content["fedsim.stays"] = ConfigRecord({"names": list(stays)})
    return content


def values(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tensors(record).items()}


# Ditto ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pull", [0.0, 0.5, 4.0])
def test_dittos_own_model_is_where_the_pull_and_the_loss_balance(pull: float) -> None:
    """Of 1/2 |2v - c|^2 + pull/2 (|v_b - w_b|^2 + |v_e - w_e|^2), both parts by hand."""
    where = site()
    reply = quadratic(Ditto, pull=pull).train(sent(), where)
    own = values(where.state.array_records["arrays"])
    # Both parts have the gradient b + e - c + pull (part - w): the sum s has
    # 2 (s - c) + pull (s - w) = 0, and b - e = w_b - w_e unless nothing pulls.
    total = (2 * TARGET + pull * SHARED) / (2 + pull)
    gap = SHARED if pull else torch.zeros(2)
    assert own["body"] == pytest.approx(((total + gap) / 2).numpy(), abs=1e-4)
    assert own["end"] == pytest.approx(((total - gap) / 2).numpy(), abs=1e-4)
    shared = values(reply.array_records["arrays"])
    assert shared["body"] + shared["end"] == pytest.approx(TARGET.numpy(), abs=1e-4)


# APFL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
def test_apfl_takes_the_steps_of_its_algorithm(adaptive: bool) -> None:
    """Both models, and alpha, in float64 by hand."""
    where, rate, alpha = site(), 0.1, 0.25
    method = quadratic(APFL, steps=5, alpha=alpha, adaptive=adaptive)
    reply = method.train(sent(), where)
    target = TARGET.double().numpy()
    shared = np.stack([SHARED.double().numpy(), np.zeros(2)])
    own = np.zeros((2, 2))
    for _ in range(5):
        pull = (alpha * own + (1 - alpha) * shared).sum(0) - target
        slope = (pull * (own - shared)).sum()
        own, shared = own - rate * alpha * pull, shared - rate * (shared.sum(0) - target)
        alpha = min(max(alpha - rate * slope, 0.0), 1.0) if adaptive else alpha
    assert (alpha == 0.25) is not adaptive
    assert reply.metric_records["metrics"]["alpha"] == pytest.approx(alpha, abs=1e-6)
    mixed = alpha * own + (1 - alpha) * shared
    for found, wanted in (
        (reply.array_records["arrays"], shared),
        (where.state.array_records["own weights"], own),
        (where.state.array_records["arrays"], mixed),
    ):
        parts = values(found)
        assert np.stack([parts["body"], parts["end"]]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("alpha", "end"), [(0.0, 0.0), (1.0, 1.0)])
def test_apfls_alpha_stays_between_0_and_1(alpha: float, end: float) -> None:
    # The loss falls on beyond the end that alpha is at: towards v = c / 2, and away from v = -c.
    own = TARGET / 2 if alpha else -TARGET
    where = site(first_arrays=lambda: pack_state({"body": own, "end": torch.zeros(2)}))
    reply = quadratic(APFL, steps=1, alpha=alpha).train(sent(), where)
    assert reply.metric_records["metrics"]["alpha"] == end


def test_without_own_weights_apfls_model_is_the_shared_one_as_this_client_trained_it() -> None:
    where = site()
    reply = quadratic(APFL, alpha=0.0, adaptive=False).train(sent(), where)
    for name, value in values(reply.array_records["arrays"]).items():
        assert (values(where.state.array_records["arrays"])[name] == value).all()


# FedRep -----------------------------------------------------------------------------------------


def test_fedrep_trains_the_head_first_and_then_the_body() -> None:
    """One step of each: the body's gradient is that under the new head."""
    method = quadratic(FedRep, steps=1, head_steps=1)
    found = values(method.train(sent(stays=("end",)), site()).array_records["arrays"])
    head = 0.1 * (TARGET - SHARED)
    assert found["end"] == pytest.approx(head.numpy())
    assert found["body"] == pytest.approx((SHARED + 0.1 * (TARGET - SHARED - head)).numpy())


@pytest.mark.parametrize("kind", [FedRep, FedBABU])
def test_what_needs_a_head_says_how_to_have_one(kind: type) -> None:
    with pytest.raises(InputError, match="all of the model travels"):
        quadratic(kind).train(sent(), site())


# FedBABU ----------------------------------------------------------------------------------------


def test_fedbabu_trains_the_body_alone_and_tunes_what_it_is_told() -> None:
    content = sent(stays=("end",), end=torch.tensor([0.5, 0.5]))
    found = values(quadratic(FedBABU).train(content, site()).array_records["arrays"])
    assert (found["end"] == 0.5).all()
    assert found["body"] == pytest.approx((TARGET - 0.5).numpy(), abs=1e-4)
    for tuned, moves in (("whole", {"body", "end"}), ("head", {"end"}), ("body", {"body"})):
        where = site()
        reply = quadratic(FedBABU, tuned=tuned, tune_steps=1).fine_tune(content, where)
        assert set(reply) == {"metrics"}
        own, before = (
            values(where.state.array_records["arrays"]),
            values(content.array_records["arrays"]),
        )
        for name, value in before.items():
            step = 0.1 * (TARGET - SHARED - 0.5).numpy() if name in moves else 0.0
            assert own[name] == pytest.approx(value + step)


# pFedMe -----------------------------------------------------------------------------------------


def test_pfedme_takes_proximal_steps() -> None:
    """With many inner steps theta is the proximal point of w, in closed form."""
    pull, rate, moves = 2.0, 0.25, 3
    method = quadratic(PFedMe, pull=pull, rate=rate, inner_steps=200, steps=200 * moves)
    where = site()
    reply = method.train(sent(), where)
    body, end = SHARED.clone(), torch.zeros(2)
    for _ in range(moves):
        total = (2 * TARGET + pull * (body + end)) / (2 + pull)
        theta = ((total + body - end) / 2, (total - body + end) / 2)
        body, end = (w - rate * pull * (w - t) for w, t in zip((body, end), theta, strict=True))
    shared, own = (values(r.array_records["arrays"]) for r in (reply, where.state))
    assert shared["body"] == pytest.approx(body.numpy(), abs=1e-4)
    assert shared["end"] == pytest.approx(end.numpy(), abs=1e-4)
    assert own["body"] == pytest.approx(theta[0].numpy(), abs=1e-4)


def test_pfedmes_last_turn_counts_though_it_is_not_full() -> None:
    one = quadratic(PFedMe, inner_steps=5, steps=7, pull=1.0, rate=0.5).train(sent(), site())
    full = quadratic(PFedMe, inner_steps=5, steps=5, pull=1.0, rate=0.5).train(sent(), site())
    assert not np.allclose(*(tensors(r.array_records["arrays"])["body"] for r in (one, full)))


def test_pfedmes_server_goes_beta_of_the_way() -> None:
    for beta, wanted in ((1.0, 3.0), (0.5, 2.0), (2.0, 5.0)):
        server = PFedMeServer(beta=beta)
        server.content(1, tensor_record({"w": np.ones(2, np.float32)}), ConfigRecord())
        arrays, _ = server.aggregate_train(1, [reply_of(2.0, 1), reply_of(4.0, 99)])
        assert arrays is not None
        assert tensors(arrays)["w"] == pytest.approx(wanted)


def test_pfedme_refuses_to_pass_by() -> None:
    with pytest.raises(ValueError, match="rate times pull is 2"):
        PFedMe(pull=4.0, rate=0.5)


def reply_of(value: float, records: int) -> Message:
    configure_identity()  # Else a message cannot be made before a run.
    arrays = tensor_record({"w": np.full(2, value, np.float32)})
    metrics = MetricRecord({"num-examples": records})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), 1, "train")


# Vectors of classes -----------------------------------------------------------------------------

ONE = ClassMeans(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([3.0, 0.0]))
OTHER = ClassMeans(np.array([[5.0, 4.0], [2.0, 2.0]]), np.array([1.0, 2.0]))


def test_class_means_by_hand() -> None:
    found = ClassMeans.of([[1, 2], [3, 4], [5, 9]], [0, 0, 2], 3)
    assert found.means.tolist() == [[2, 3], [0, 0], [5, 9]]
    assert found.counts.tolist() == [2, 0, 1]
    read = ClassMeans.read(found.arrays(), 3, 2)
    assert (read.means == found.means).all()
    assert averaged_means([ONE, OTHER]).means.tolist() == [[2, 1], [2, 2]]
    assert averaged_means([ONE, OTHER], "uniform").means.tolist() == [[3, 2], [2, 2]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"means": np.zeros((2, 3))}, r"means of shape \(2, 3\); expected \(2, 2\)"),
        ({"counts": np.array([1.0, np.nan])}, "not all finite"),
        ({"counts": np.array([1.0, -1.0])}, "counts below 0"),
    ],
)
def test_class_means_that_are_none_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ClassMeans.read(ONE.arrays() | change, 2, 2)
    with pytest.raises(ValueError, match="no array 'means'"):
        ClassMeans.read({}, 2, 2)


def test_prototypes_stay_where_nobody_has_the_class() -> None:
    server = FedProto()
    server.take([(0, OTHER)])
    server.take([(1, ONE)])
    assert server.prototypes is not None
    assert server.prototypes.means.tolist() == [[1, 0], [2, 2]]
    again = FedProto()
    again.load_state_dict(server.state_dict())
    assert again.prototypes is not None
    assert (again.prototypes.means == server.prototypes.means).all()


def test_a_teacher_leaves_its_pupil_out() -> None:
    server = FedDistill()
    assert server.teacher(0) is None
    server.take([(0, ONE)])
    assert server.teacher(0) is None
    server.take([(1, OTHER)])
    third = ClassMeans(np.array([[3.0, 0.0], [4.0, 0.0]]), np.ones(2))
    server.take([(2, third)])
    teachers = [server.teacher(client) for client in (0, 1)]
    assert teachers[0] is not None
    assert teachers[1] is not None
    assert teachers[0].means.tolist() == [[4, 2], [3, 1]]
    assert teachers[1].means.tolist() == [[2, 0], [4, 0]]
    again = FedDistill()
    again.load_state_dict(server.state_dict())
    assert (again.teacher(0).means == teachers[0].means).all()  # type: ignore[union-attr]


def test_the_losses_by_hand() -> None:
    labels, known = torch.tensor([0, 1]), torch.tensor([1.0, 0.0])
    means = torch.tensor([[1.0, 3.0], [9.0, 9.0]])
    vectors = torch.tensor([[2.0, 1.0], [5.0, 5.0]])
    assert distance(vectors, labels, means, known).item() == pytest.approx((1 + 4) / 2 / 2)
    wanted = means[0].softmax(0) @ -vectors[0].log_softmax(0) / 2
    assert distillation(vectors, labels, means, known).item() == pytest.approx(wanted.item())
    said = Said(2)
    said.add(vectors, torch.tensor([1, 1]))
    said.add(vectors[:1], torch.tensor([1]))
    assert said.means().means.tolist() == [[0, 0], [3, pytest.approx(7 / 3)]]
    assert said.means().counts.tolist() == [0, 3]


# Whole runs -------------------------------------------------------------------------------------

STEPS = "batch_size: 16, steps: 3, learning_rate: 0.05"
HEAD = "federation.local=head"
RUNS: dict[str, tuple[str, ...]] = {
    "ditto": ("strategy=ditto", f"client={{name: ditto, {STEPS}}}"),
    "fed_rep": (HEAD, f"client={{name: fed_rep, {STEPS}, head_steps: 2}}"),
    "fed_babu": (HEAD, "strategy=fed_babu", f"client={{name: fed_babu, {STEPS}, tune_steps: 2}}"),
    "fed_proto": ("strategy=fed_proto", f"client={{name: fed_proto, {STEPS}}}"),
    "fed_distill": ("strategy=fed_distill", f"client={{name: fed_distill, {STEPS}}}"),
    "apfl": ("strategy=apfl", f"client={{name: apfl, {STEPS}}}"),
    "pfedme": ("strategy=pfedme", f"client={{name: pfedme, {STEPS}, inner_steps: 2}}"),
}
LOCAL = ("strategy=local_only", f"client={{name: local, {STEPS}}}")


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs the tiny scenario; with the same words and options, once."""
    folder = tmp_path_factory.mktemp("personal")
    (folder / "tiny.yaml").write_text(TINY)

    @functools.cache
    def go(*overrides: str, **options: Any) -> Result:
        return run(folder / "tiny.yaml", *overrides, runs=folder / "runs", **options)

    return go


def models(result: Result) -> list[dict[str, Tensor]]:
    """Each client's own model, in the order of their names."""
    found = [load_file(path) for path in sorted((result.folder / "models").glob("*.safetensors"))]
    assert len(found) == 4
    return found


def rounds(result: Result) -> list[dict[str, Any]]:
    return RunFolder.open(result.folder).read_lines("rounds.jsonl")


def assert_same_models(one: Result, other: Result) -> None:
    for left, right in zip(models(one), models(other), strict=True):
        assert all(torch.equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize("method", RUNS)
def test_the_same_bits_on_ray(method: str, go: Callable[..., Result]) -> None:
    one, other = go(*RUNS[method]), go(*RUNS[method], backend="ray")
    assert one.metrics == other.metrics
    assert_same_models(one, other)


@pytest.mark.parametrize(
    ("method", "none"),
    [("ditto", "client.pull=0"), ("fed_proto", "client.weight=0"),
     ("fed_distill", "client.weight=0"), ("apfl", "client.alpha=1 client.adaptive=false")],
)  # fmt: skip
def test_without_a_pull_it_is_training_alone(
    method: str, none: str, go: Callable[..., Result]
) -> None:
    alone = go(*LOCAL)
    assert_same_models(go(*RUNS[method], *none.split()), alone)
    pulled = models(go(*RUNS[method]))
    assert any(not torch.equal(pulled[0][n], v) for n, v in models(alone)[0].items())


@pytest.mark.parametrize("method", ["ditto", "apfl"])
def test_the_shared_model_is_that_of_fedavg(method: str, go: Callable[..., Result]) -> None:
    def losses(result: Result) -> list[float]:
        each = [row["metrics_by_client"].values() for row in rounds(result)]
        return [client["loss"] for clients in each for client in clients]

    averaged = losses(go(f"client={{name: supervised, {STEPS}}}"))
    assert len(averaged) == 8
    assert losses(go(*RUNS[method])) == averaged


@pytest.mark.parametrize("method", ["fed_proto", "fed_distill"])
def test_no_model_travels(method: str, go: Callable[..., Result]) -> None:
    result = go(*RUNS[method], "evaluation.on_clients=true")
    rows = RunFolder.open(result.folder).read_lines("traffic.jsonl")
    size = 2 if method == "fed_distill" else 32
    named = {name: number for row in rows for name, number in row["fields"].items()}
    assert "arrays" not in named
    assert named["class_means"] == 2 * size * 4 + 2 * 8


def test_bodies_are_under_one_head_until_they_are_tuned(go: Callable[..., Result]) -> None:
    before = models(go(*RUNS["fed_babu"], "client.tuned=body"))
    assert all(torch.equal(before[0][n], one[n]) for one in before for n in one if "class" in n)
    after = go(*RUNS["fed_babu"])
    assert [row["exchanges"] for row in rounds(after)] == [["train"], ["train", "fine_tune"]]
    heads = [one["classifier.weight"] for one in models(after)]
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("method", RUNS)
def test_a_private_run_is_refused(method: str, go: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="no private form"):
        go(*RUNS[method], "privacy={target_epsilon: 4, delta: 1e-3}")


@pytest.mark.parametrize(
    ("method", "looked_at"),
    [
        (Ditto(epochs=3), 2 * 3 * 100),
        (APFL(steps=4, batch_size=8), 2 * 32),
        (FedRep(epochs=3, head_steps=5, batch_size=8), 300 + 40),
        (PFedMe(epochs=3, inner_steps=5), 5 * 300),
        (PFedMe(steps=10, inner_steps=5, batch_size=8), 80),
    ],
)
def test_a_clock_is_told_of_every_step(method: Any, looked_at: int) -> None:
    assert method.workload(100) == looked_at
