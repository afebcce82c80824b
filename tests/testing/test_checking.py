"""Each check finds the plugin that breaks it, and lets the built-in ones pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped
from PIL import Image

from fedsim.errors import InputError
from fedsim.registry import GROUPS, KINDS
from fedsim.testing import Check, CheckFailed, NotApplicable, checks, kind_of, strategy_checks
from fedsim.testing.bench import Bench
from fedsim.verbs.new import KINDS as TYPED

PLUGINS = [Path(__file__).parents[1] / "plugins"]


def of(group: str, name: str, *overrides: str, what: str | None = None) -> dict[str, Check]:
    """The checks of a plugin, by name."""
    told = {} if what is None else {"what": what}
    found = checks(group, name, overrides, plugins=PLUGINS, parameters=told)
    return {check.name: check for check in found}


BROKEN = [
    ("strategies", "Odd", "nothing", "something is learned", "returned no arrays"),
    ("strategies", "Odd", "same", "something is learned", "nothing was learned: after 2 round"),
    ("strategies", "Odd", "class", "the same seed, the same bits", "differ in the model's"),
    ("strategies", "Odd", "first", "replies in another order", "give another model"),
    ("strategies", "Odd", "forgets", "state survives a checkpoint", "state_dict and load_state"),
    ("strategies", "Odd", "draws", "no global randomness", "numpy.random in aggregate_train"),
    ("strategies", "Odd", "seeds", "no global randomness", "seeded, the global generator of nump"),
    ("strategies", "Odd", "asks before", "bytes are counted", "2 message.* 3 with"),
    ("strategies", "Odd", "three", "a client that is missing", "three replies are expected"),
    ("strategies", "Odd", "swallows", "a round without replies", "nobody answered changed the mod"),
    ("clients", "OddClient", "same", "something is learned", "nothing was learned"),
    ("clients", "OddClient", "keeps", "clients in another order", "in another order give other"),
    ("clients", "OddClient", "keeps", "nothing is kept on the object", "goes into site.state"),
    ("clients", "OddClient", "draws", "no global randomness", "numpy.random in train"),
    ("clients", "OddClient", "edits", "the broadcast stays as it is", "'arrays' in train"),
    ("datasets", "OddData", "unseeded", "read twice, the same bits", "prepared twice"),
    ("datasets", "OddData", "one patient", "patients", "all 60 records are of one group"),
    ("datasets", "OddData", "global", "no global randomness", "generator of numpy.random"),
    ("models", "OddModel", "shape", "inputs to outputs", r"shape \(4,\), not \(4, 2\)"),
    ("models", "OddModel", "idle", "gradients", "no gradient reaches idle.weight"),
    ("models", "OddModel", "hidden", "its state travels", "neither a parameter nor a buffer"),
    ("models", "OddModel", "batch", "one record at a time", "with the batch that it is in"),
    ("models", "OddModel", "numpy", "first weights", "numpy.random in its constructor"),
    (
        "partitions",
        "OddPartition",
        "loses",
        "every record once",
        "1 of 300 records are with",
    ),
    ("partitions", "OddPartition", "unsorted", "every record once", "do not ascend"),
    ("partitions", "OddPartition", "numbers", "every record once", "name is 0, not a text"),
    ("partitions", "OddPartition", "raises", "every record once", "assign raised KeyError"),
    ("partitions", "OddPartition", "one more", "the number of clients", "4 clients .* there are 5"),
    ("partitions", "OddPartition", "tears", "patients stay together", "records at several clients"),
    (
        "partitions",
        "OddPartition",
        "own chance",
        "the same rng, the same parts",
        "the parts differ",
    ),
    ("partitions", "OddPartition", "draws", "no global randomness", "generator of numpy.random"),
    ("partitions", "OddPartition", "accepts", "more clients than patients", "are not refused"),
]


@pytest.mark.parametrize(
    ("group", "name", "what", "check", "words"), BROKEN, ids=lambda part: str(part)[:24]
)
def test_what_breaks_a_rule_is_found(
    group: str, name: str, what: str, check: str, words: str
) -> None:
    with pytest.raises(CheckFailed, match=words):
        of(group, f"lax:{name}", what=what)[check]()


def test_a_client_that_declares_nothing_sends_nothing() -> None:
    with pytest.raises(InputError, match="sends no model: each keeps its own"):
        of("clients", "lax:SaysNothing", "strategy=fedavg")["what it sends"]()
    with pytest.raises(CheckFailed, match='declares payload "nothing" and sends arrays'):
        of("clients", "lax:SaysNothing", "strategy=lax:Last")["what it sends"]()


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(("clients", name) for name in ("pseudo_label", "mean_teacher", "fixmatch", "fed_cot")),
        ("clients", "mean_teacher_segmentation"),
        ("strategies", "fed_cot"),
    ],
)
def test_labels_are_hidden_from_methods_that_learn_without(group: str, name: str) -> None:
    assert Bench(group, name, {}, [], []).scenario().federation.labelled == 0.5


def test_a_client_says_how_many_records_it_stands_for() -> None:
    over = ("strategy=lax:Last", "evaluation.on_clients=false")
    found = of("clients", "lax:OddClient", *over, what="uncounted")
    with pytest.raises(CheckFailed, match="in round 1 has no num-examples"):
        found["num-examples are reported"]()


def test_a_manifest_lists_what_is_there_once(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "here.png")
    root = f"data.root={tmp_path}"
    for what, words in (("gone", "1 of 2 files are not there"), ("twice", "1 ids are given to")):
        with pytest.raises(CheckFailed, match=words):
            of("datasets", "lax:OddData", root, what=what)["the manifest"]()
    with pytest.raises(NotApplicable, match=r"--with data\.root=DIR"):
        of("datasets", "lax:OddData")["the manifest"]()


def passes(group: str, name: str, *overrides: str) -> dict[str, str]:
    """What each check says of a plugin that keeps all rules."""
    said = {}
    for check in of(group, name, *overrides).values():
        try:
            said[check.name] = check()
        except NotApplicable as error:
            said[check.name] = f"does not apply: {error}"
    return said


@pytest.fixture(scope="module")
def of_fedavg() -> dict[str, str]:
    return passes("strategies", "fedavg")


def test_a_strategy_that_keeps_all_rules_passes(of_fedavg: dict[str, str]) -> None:
    assert not [text for text in of_fedavg.values() if text.startswith("does not apply")]
    assert "two rounds, 3 client(s) then 3 client(s), not the same ones" in of_fedavg.values()
    assert of_fedavg["replies in another order"] == "the reverse order gives the same bits"
    assert "all counted" in of_fedavg["bytes are counted"]


def test_of_a_link_what_never_crossed_need_not_be_counted() -> None:
    words = "model={name: split_unet, channels: [4, 8]}"
    counted = of("clients", "split_segmentation", words)["bytes are counted"]
    assert "all counted" in counted()


def test_it_is_said_what_a_nan_does(of_fedavg: dict[str, str]) -> None:
    assert of_fedavg["an update that is NaN"].startswith(
        "refused, the run stops: strategy 'fedavg'"
    )
    survives = of("strategies", "lax:Odd", what="median")["an update that is NaN"]()
    assert survives == "survived: NaN in 'arrays' of one reply, and the model is finite"


def test_a_one_shot_strategy_passes_with_clients_that_send_images() -> None:
    said = passes("strategies", "gdd")
    assert said["rounds with different clients"] == "one round, 3 client(s)"
    assert said["replies in another order"].startswith("does not apply: it declares order_matters")


def test_flowers_own_strategies_pass_and_are_sampled_by_fedsims_seed() -> None:
    said = passes("strategies", "flwr.serverapp.strategy.FedAdam")
    assert "which fedsim seeds around the call" in said["no global randomness"]
    assert "not the same ones" in said["rounds with different clients"]


@pytest.mark.parametrize("name", ["supervised", "scaffold", "reconstruction", "fedautomri"])
def test_built_in_clients_pass(name: str) -> None:
    said = passes("clients", name)
    assert said["nothing is kept on the object"] == "a new object for each message: the same bits"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apfl", "fed_dg", "fed_mix", "pfedme", "q_fedavg"])
def test_clients_of_baselines_pass(name: str) -> None:
    said = passes("clients", name)
    assert said["state survives a checkpoint"] == "cut after round 1 and resumed: the same bits"
    assert not [text for text in said.values() if text.startswith("does not apply")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fed_dg", "fed_mix", "fedadagrad", "fedyogi", "pfedme", "q_fedavg"]
)
def test_strategies_of_baselines_pass(name: str) -> None:
    said = passes("strategies", name)
    assert said["state survives a checkpoint"] == "cut after round 1 and resumed: the same bits"
    assert "not the same ones" in said["rounds with different clients"]


@pytest.mark.parametrize("name", ["dirichlet", "shards"])
def test_built_in_partitions_pass(name: str) -> None:
    over = ["federation.partition.alpha=1.0"] if name == "dirichlet" else []
    said = passes("partitions", name, *over)
    assert said["patients stay together"] == "120 patients, each with one client"
    assert said["the number of clients"] == "4 clients, as asked for"


@pytest.mark.parametrize("name", ["cnn", "modl"])
def test_built_in_models_pass(name: str) -> None:
    assert passes("models", name)["gradients"].startswith("reach all ")


def test_after_a_run_that_fails_the_others_do_not_begin() -> None:
    found = of("strategies", "lax:Odd", what="nothing")
    with pytest.raises(CheckFailed, match="returned no arrays"):
        found["rounds with different clients"]()
    with pytest.raises(NotApplicable, match="the first run failed"):
        found["the same seed, the same bits"]()


def test_a_flower_app_is_checked_as_far_as_it_can_be() -> None:
    found = of("clients", "misbehaving:foreign")
    assert found["rounds with different clients"]().startswith("two rounds")
    with pytest.raises(NotApplicable, match="brings its own data and randomness"):
        found["no global randomness"]()


def test_ray_is_asked_for() -> None:
    assert [check.name for check in checks("clients", "supervised", ray=True)][-1].endswith("Ray")
    assert not [check for check in checks("clients", "supervised") if "Ray" in check.name]


@pytest.mark.slow
def test_on_ray_what_passes_beside_the_messages_shows() -> None:
    parameters = {"what": "beside"}
    found = checks(
        "strategies",
        "lax:Odd",
        ["client=lax:OddClient"],
        plugins=PLUGINS,
        ray=True,
        parameters=parameters,
    )
    with pytest.raises(CheckFailed, match=r"a run on Ray differs .* in the model's"):
        found[-1]()


def test_each_check_is_a_test_of_pytest() -> None:
    test = strategy_checks("lax:Odd", "federation.clients=4", plugins=PLUGINS, what="same")
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    names, found = mark.args
    assert names == "check"
    assert [mark.kwargs["ids"](check) for check in found][1] == "something is learned"
    with pytest.raises(Failed, match="nothing was learned"):
        test(found[1])
    ordered = strategy_checks("gdd")
    with pytest.raises(Skipped, match="order_matters"):
        ordered(next(c for c in ordered.pytestmark[0].args[1] if "order" in c.name))  # type: ignore[attr-defined]


def test_a_class_is_found_by_itself() -> None:
    from fedsim.strategies.fedavg import FedAvg

    (mark,) = strategy_checks(FedAvg, codec="float16").pytestmark  # type: ignore[attr-defined]
    bench = mark.args[1][0]._bench
    assert bench.scenario().strategy.parameters == {"codec": "float16"}
    assert bench.factory is FedAvg


def test_a_plugin_that_cannot_be_made_is_wrong_input() -> None:
    with pytest.raises(InputError, match=r"strategy 'fedavg' cannot be checked") as error:
        checks("strategies", "fedavg", ["strategy.codec=float8"])[0]()
    assert "command line (strategy.codec=float8): strategy.codec: expected" in str(error.value)
    with pytest.raises(InputError, match="the scenario of the checks:") as error:
        checks("strategies", "fedavg", parameters={"codec": 3})[0]()
    assert "fedsim-check" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("fedavg", "strategies"),
        ("condist", "clients"),
        ("folder", "datasets"),
        ("unet", "models"),
        ("shards", "partitions"),
        ("lax:Odd", "strategies"),
        ("lax:OddClient", "clients"),
        ("lax:OddData", "datasets"),
        ("lax:OddModel", "models"),
        ("lax:OddPartition", "partitions"),
        ("misbehaving:foreign", "clients"),
        ("flwr.serverapp.strategy.Krum", "strategies"),
    ],
)
def test_the_kind_of_a_plugin_is_seen(
    name: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGINS[0])
    assert kind_of(name) == group


def test_a_kind_that_cannot_be_seen_is_asked_for() -> None:
    with pytest.raises(InputError, match="does not say which kind"):
        kind_of("fedsim.wire.flower:tensors")
    with pytest.raises(InputError, match="did you mean 'fedavg'"):
        kind_of("fedavgg")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exchanging:Quiet", "is a wrapper, which has no checks"),
        ("flip_labels", "is a wrapper"),
        ("watchers:Keeps", "is an? observer"),
        ("mlflow", "is an? observer"),
        ("lie", "is an adversary"),
        ("fedsim.adversaries.statistical:Lie", "is an adversary"),
    ],
)
def test_wrappers_and_observers_are_named_as_what_has_no_checks(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGINS[0])
    with pytest.raises(InputError, match=words) as error:
        kind_of(name)
    assert "type: fedsim" in str(error.value)


def test_what_is_typed_for_a_kind_are_the_groups() -> None:
    assert tuple(KINDS) == TYPED
    untyped = {"wrappers", "observers", "adversaries"}
    assert [*KINDS.values()] == [group for group in GROUPS if group not in untyped]
