"""Plugins that do not go together are refused when a scenario is read, with those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import InputError
from fedsim.cli import main
from fedsim.registry import default_registry
from fedsim.scenario import load, names
from fedsim.scenario.fitting import data_of, payload_of
from tests.shipped import needed

VOLUMES = "data={name: promise12, size: 16}"
NATURAL = "federation={partition: natural}"
PLAIN = "type client=NAME, one of: fed_rep, head_first, long_tail, moon, supervised"


def _refused(name: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(name, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["strategy=gdd", "client=supervised"],
            "client: 'supervised' sends models, but strategy 'gdd' expects images with labels; "
            "with 'gdd' type client=NAME, one of: distill, random_selection; with 'supervised' "
            "type strategy=NAME, one of: fed_ncl, fedadagrad, fedadam, fedavg, ",
        ),
        (
            ["strategy=fedavg", "client=distill"],
            "client: 'distill' sends images with labels, but strategy 'fedavg' expects models; "
            f"with 'fedavg' {PLAIN}; with 'distill' type strategy=gdd\n",
        ),
        (
            ["strategy=server_momentum", "client=random_selection"],
            f"strategy 'server_momentum' expects models; with 'server_momentum' {PLAIN}; with "
            "'random_selection' type strategy=gdd\n",
        ),
        (
            ["strategy=flwr.serverapp.strategy.FedAdam", "client=distill"],
            f"expects models; with 'flwr.serverapp.strategy.FedAdam' {PLAIN}; ",
        ),
        (
            ["strategy=local_only", "client=supervised"],
            "'supervised' sends models, but strategy 'local_only' expects no model: each keeps its "
            "own; with 'local_only' type client=local; ",
        ),
        (
            ["strategy=feature_gram", "client=feature_means"],
            "client: 'feature_means' sends statistics of feature vectors of the kind 'feature "
            "means', but strategy 'feature_gram' expects statistics of feature vectors of the kind "
            "'feature gram'; with 'feature_gram' type client=feature_gram; with 'feature_means' "
            "type strategy=feature_means\n",
        ),
        (
            ["strategy=feature_means", "client=supervised"],
            "'supervised' sends models, but strategy 'feature_means' expects statistics of feature "
            "vectors; with 'feature_means' type client=feature_means; ",
        ),
        (
            ["strategy=gdd", "client=feature_means"],
            "expects images with labels; with 'gdd' type client=NAME, one of: distill, "
            "random_selection; with 'feature_means' type strategy=feature_means\n",
        ),
        (
            ["strategy=fedavg", "client=local"],
            f"expects models; with 'fedavg' {PLAIN}; with 'local' type strategy=local_only\n",
        ),
        (
            ["client=scaffold"],
            "client: 'scaffold' sends models of the kind 'control variates', but strategy 'fedavg' "
            f"expects models alone; with 'fedavg' {PLAIN}; with 'scaffold' type "
            "strategy=scaffold\n",
        ),
        (
            ["client=fednova", "strategy=fedadam"],
            "'fednova' sends models of the kind 'normalised update', but strategy 'fedadam' "
            f"expects models alone; with 'fedadam' {PLAIN}; with 'fednova' type strategy=fednova\n",
        ),
        (
            ["client=feddyn", "strategy=scaffold"],
            "'feddyn' sends models of the kind 'dynamic regularisation', but strategy 'scaffold' "
            "expects models of the kind 'control variates'; with 'scaffold' type client=scaffold; "
            "with 'feddyn' type strategy=feddyn\n",
        ),
        (
            ["strategy=feddyn"],
            "'supervised' sends models alone, but strategy 'feddyn' expects models of the kind "
            "'dynamic regularisation'; with 'feddyn' type client=feddyn; with 'supervised' type "
            "strategy=NAME, one of: ",
        ),
        (
            ["federation.overrides={client-1: {client: {name: scaffold, epochs: 1}}}"],
            "'fedavg' type federation.overrides.client-1.client=NAME, one of: fed_rep, ",
        ),
        (
            ["client=segmentation"],
            "client: 'segmentation' is made for volumes to segment, but 'ham10000' has images to "
            "classify; with these go: apfl, creff, distill, ditto, feature_gaussians, "
            "feature_gram, feature_means, fed_babu, fed_dg, fed_distill, fed_mas, fed_mix, "
            "fed_proto, fed_rep, feddyn, fednova, head_first, local, long_tail, moon, pfedme, "
            "q_fedavg, random_selection, scaffold, supervised",
        ),
        (
            ["model=unet"],
            "model: 'unet' is made for volumes to segment, but 'ham10000' has images to classify; "
            "with these go: cnn, convnet, efficientnet_lite0, projected, resnet18, resnet9, "
            "vit_s14",
        ),
        (
            [VOLUMES, NATURAL],
            "'promise12' has volumes to segment; with these go: apfl_segmentation, condist, "
            "ditto_segmentation, fed_babu_segmentation, fed_dg_segmentation, "
            "fed_rep_segmentation, feddyn_segmentation, fednova_segmentation, in_context, "
            "local_segmentation, pfedme_segmentation, q_fedavg_segmentation, "
            "scaffold_segmentation, segmentation, split_segmentation",
        ),
        (
            [VOLUMES, NATURAL, "client=segmentation"],
            "model: 'convnet' is made for images to classify, but 'promise12' has volumes to "
            "segment; with these go: dynunet, in_context, split_unet, unet, vit_decoder",
        ),
        (
            [VOLUMES, NATURAL, "client=segmentation", "model=unet", "strategy=feature_gram"],
            "strategy: 'feature_gram' is made for images to classify or features of images to "
            "classify, but 'promise12' has volumes to segment; with these go: apfl, auto_fedavg, "
            "ditto, fed_babu, fed_cot, fed_dg, fed_ncl, fedadagrad, fedadam, fedavg, feddyn, "
            "fednova, fedyogi, in_context, local_only, lora_svd, pfedme, q_fedavg, remember, "
            "robust, scaffold, server_momentum, unlearn_fedaccum,",
        ),
        (
            [VOLUMES, NATURAL, "client=segmentation", "model=unet", "strategy=gdd"],
            "strategy: 'gdd' is made for images to classify, but 'promise12' has volumes to "
            "segment; with these go: apfl, auto_fedavg, ditto, fed_babu, fed_cot, fed_dg, "
            "fed_ncl, fedadagrad, fedadam, fedavg, feddyn, fednova, fedyogi, in_context, "
            "local_only, lora_svd, pfedme, q_fedavg, remember, robust, scaffold, "
            "server_momentum, unlearn_fedaccum,",
        ),
    ],
)
def test_pairs_that_do_not_go_together_are_refused_with_those_that_do(
    overrides: list[str], says: str
) -> None:
    base = [
        "data={name: ham10000, size: 16}",
        "strategy=fedavg",
        "client=supervised",
        "privacy=null",
    ]
    assert says in _refused("isic_iid_fedavg", *base, "model=convnet", *overrides)


PROX = "strategy={name: flwr.serverapp.strategy.FedProx, proximal_mu: 0.1}"
RESTS = "tests.engine.test_clock.Rests"
"""A client method that adds no proximal term."""


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ((PROX, f"client={RESTS}"), "client"),
        ((PROX, f"federation.overrides={{client-0: {{client: {{name: {RESTS}}}}}}}"),
         "federation.overrides.client-0.client"),
    ],
)  # fmt: skip
def test_fedprox_is_refused_where_a_client_leaves_its_term_out(
    words: tuple[str, ...], key: str
) -> None:
    told = _refused("isic_noniid_fedavg", *words)
    assert f"{key}: strategy 'flwr.serverapp.strategy.FedProx' asks for a proximal term" in told
    assert f"{RESTS!r} does not declare that it adds a proximal term; type {key}=NAME" in told
    assert "long_tail, supervised; or type" in told
    assert told.rstrip().splitlines()[1].endswith("or type strategy=fedavg")


def test_nobody_is_refused_who_is_not_asked_or_adds_the_term() -> None:
    load("isic_noniid_fedavg", [PROX])
    load("isic_noniid_fedavg", [PROX.replace("0.1", "0.0"), f"client={RESTS}"])
    load("isic_noniid_fedavg", ["strategy=fedavg", f"client={RESTS}"])


@pytest.mark.parametrize("verb", ["check", "run"])
def test_the_verbs_refuse_them_before_anything_starts(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, "isic_noniid_gdd", VOLUMES, NATURAL]) == 2
    shown = capsys.readouterr().err
    assert "'distill' is made for images to classify, but 'promise12' has volumes" in shown
    assert len(shown.splitlines()) < 10
    assert not (tmp_path / "runs").exists()


def test_every_shipped_scenario_fits() -> None:
    for name in names():
        load(name, needed(name))


def test_every_built_in_says_what_it_is_made_for() -> None:
    registry = default_registry()
    for name in registry.names("clients"):
        client = registry.resolve("clients", name)
        assert payload_of(client), name
        assert data_of(client), name
    for name in registry.names("strategies"):
        assert payload_of(registry.resolve("strategies", name)), name
    for name in registry.names("models"):
        assert data_of(registry.resolve("models", name)), name


def test_what_says_nothing_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(
        "from fedsim import Client, Strategy\n"
        "class Sends(Client):\n    payload = 'smoke signals'\n    def train(self, c, s): ...\n"
        "class Takes(Strategy):\n    def aggregate_train(self, r, x): ...\n"
        "def model(num_classes, in_channels, image_size): ...\n"
    )
    common = f"plugins=[{tmp_path}]"
    load("isic_iid_fedavg", [common, "client=silent.Sends"])
    load("isic_noniid_gdd", [common, "client=silent.Sends"])
    load("isic_iid_fedavg", [common, "strategy=silent.Takes", "model=silent.model"])


def test_methods_for_few_labels_are_advised_where_there_are_few() -> None:
    words = ("data={name: ham10000, size: 16}", "model=convnet", "client=distill", "privacy=null")
    said = _refused("isic_iid_fedavg", *words, "federation.labelled=0.5")
    assert "fixmatch, head_first, long_tail, mean_teacher, moon, pseudo_label" in said
    assert "fixmatch" not in _refused("isic_iid_fedavg", *words)
