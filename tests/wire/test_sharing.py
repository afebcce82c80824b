"""Rules on names: what of a model is shared, stays at the client, is frozen."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim import InputError
from fedsim.errors import DivergedError
from fedsim.method.updates import load_received, proximal_term, update
from fedsim.models import ConvNet, ResNet18, SmallCNN
from fedsim.models.dynunet import DynUNet
from fedsim.models.unet import UNet
from fedsim.scenario import load
from fedsim.wire.buffers import LOCAL, STAYS, Buffers, receive, roles_of, withhold
from fedsim.wire.flower import (
    carriers,
    load_state,
    pack_state,
    parameter_names,
    tensor_record,
    tensors,
)
from fedsim.wire.sharing import Sharing, freeze, head_paths, norm_paths, sharing_of
from tests.plugins.odd_models import Odd


def rules(local: Any = None, trainable: Any = "all") -> Any:
    """As much of a scenario as the rules read."""
    return SimpleNamespace(
        federation=SimpleNamespace(local=local),
        model=SimpleNamespace(name="mine", trainable=trainable),
        place=lambda *path: f"mine.yaml:{len(path)}",
    )


def names(model: nn.Module) -> frozenset[str]:
    return frozenset(carriers(model.state_dict()).values())


def norms_of(model: nn.Module) -> frozenset[str]:
    return sharing_of(rules("norm"), model).local


def test_norm_is_all_of_the_normalisation_layers_and_nothing_else() -> None:
    assert norms_of(Odd(2, 3, 8)) == {
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    }
    cnn = SmallCNN(2, 3, 16, width=8)
    assert norms_of(cnn) == {f"features.{k}.{n}" for k in (1, 5, 9) for n in ("weight", "bias")}
    unet = UNet(3, 1, (32, 32))
    assert norms_of(unet) == {n for n in names(unet) if ".N." in n} != set()
    deep = DynUNet(3, 1, (32, 32))
    assert norms_of(deep) == {n for n in names(deep) if ".norm" in n} != set()

    class RMSNorm2d(nn.Module):
        """A layer of another library, known by its name."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    model = nn.Sequential(nn.Linear(2, 2), RMSNorm2d(), nn.Linear(2, 2))
    assert norm_paths(model) == ["1"]
    assert norms_of(model) == {"1.scale"}


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (SmallCNN(2, 3, 16, width=8), {"classifier.weight", "classifier.bias"}),
        (ConvNet(2, 3, 16, width=8), {"classifier.weight", "classifier.bias"}),
        (ResNet18(2, 3, 32, width=16), {"classifier.weight", "classifier.bias"}),
        (Odd(2, 3, 8), {"head.weight", "head.bias"}),
        (UNet(3, 1, (32, 32)), {"network.model.2.conv.weight", "network.model.2.conv.bias"}),
    ],
)
def test_head_is_what_a_model_says(model: nn.Module, head: set[str]) -> None:
    assert sharing_of(rules("head"), model).local == head


def test_head_of_a_deeply_supervised_network_is_every_output() -> None:
    local = sharing_of(rules("head"), DynUNet(3, 1, (32, 32))).local
    assert {name.split(".")[1] for name in local} == {"output_block", "deep_supervision_heads"}
    shallow = DynUNet(3, 1, (32, 32), heads=0)
    assert {n.split(".")[1] for n in sharing_of(rules("head"), shallow).local} == {"output_block"}


def test_a_plugin_says_its_head_by_a_path_several_or_the_module() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)

    model = Plain()
    for told in ("fc", ("fc",), ["fc.weight", "fc.bias"]):
        model.__dict__["head"] = told
        assert sharing_of(rules("head"), model).local == {"fc.weight", "fc.bias"}
    model.__dict__["head"] = model.fc
    assert head_paths(model) == ["fc"]
    model.__dict__["head"] = "gone"
    with pytest.raises(InputError, match="says that its head is 'gone', which it does not have"):
        sharing_of(rules("head"), model)
    del model.__dict__["head"]
    with pytest.raises(InputError) as refused:
        sharing_of(rules("head"), model)
    assert "federation.local: model 'mine' does not say which its last layers are" in str(
        refused.value
    )
    assert "federation.local='[fc.*]'" in refused.value.hint
    assert "head = ('fc',)" in refused.value.hint


@pytest.mark.parametrize(
    ("local", "trainable", "words"),
    [
        (("classifer.*",), "all", "'classifer.*' matches no name; the nearest: 'classifier.bias'"),
        (("classifier",), "all", "the nearest: 'classifier.bias', 'classifier.weight'"),
        (("head",), "all", "it is a word of its own: federation.local=head"),
        (None, ("qqq",), "'qqq' matches no name; there are 'classifier.bias'"),
        (None, ("all",), "it is a word of its own: model.trainable=all"),
        (("*",), "all", "leaves nothing to share"),
        ("head", "head", "leaves nothing to share"),
        ("head", ("features.*",), "frozen by model.trainable: nobody has a part of its own"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(local: Any, trainable: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        sharing_of(rules(local, trainable), SmallCNN(2, 3, 16, width=8))
    assert words in str(refused.value)
    assert "mine.yaml:2" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 40


def test_rules_that_a_model_cannot_keep_are_refused() -> None:
    with pytest.raises(InputError, match="no normalisation layer"):
        sharing_of(rules("norm"), ConvNet(2, 3, 16, width=8, norm="none"))
    for pattern in ("norm.running_*", "frozen.*"):  # buffers; parameters that nothing moves
        with pytest.raises(InputError, match="names no parameter that can be trained"):
            sharing_of(rules(trainable=(pattern,)), Odd(2, 3, 8))


def test_a_scenario_names_the_place_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nextends: isic_sites_fedavg\nfederation:\n  local: [nobody.*]\n")
    scenario = load(file)
    with pytest.raises(InputError) as refused:
        sharing_of(scenario, ConvNet(2, 3, 32, width=8))
    assert str(refused.value.problems[0]).startswith(f"{file}:4: federation.local: 'nobody.*'")


@pytest.mark.parametrize("key", ["federation.local=norm", "model.trainable=head"])
@pytest.mark.parametrize("name", ["isic_noniid_gdd", "isic_noniid_local", "prostate_centres_local"])
def test_a_strategy_without_a_travelling_model_is_refused_in_one_sentence(
    name: str, key: str
) -> None:
    with pytest.raises(InputError) as refused:
        load(name, [key])
    (problem,) = refused.value.problems
    assert key in problem.where
    assert "no model travels" in problem.message


def test_frozen_parts_are_what_no_rule_trains() -> None:
    model = Odd(2, 3, 8)
    sharing = sharing_of(rules(trainable="head"), model)
    assert sharing == Sharing(frozen=names(model) - {"head.weight", "head.bias"})
    # A layer that learns keeps its running statistics.
    moving = sharing_of(rules(trainable=("norm.weight",)), Odd(2, 3, 8)).frozen
    assert not moving & {"norm.weight", "norm.running_mean", "norm.running_var"}
    assert "norm.bias" in moving
    # Every name: what the model itself has frozen stays at home.
    assert {"frozen.weight", "frozen.bias"} <= sharing_of(rules(trainable=("*",)), model).frozen
    assert not sharing_of(rules(), model).stays


def test_frozen_layers_do_not_change_in_training() -> None:
    model = Odd(2, 3, 8)
    sharing = sharing_of(rules(trainable="head"), model)
    freeze(model, sharing)
    for one in (model, copy.deepcopy(model)):
        one.train()
        assert not one.norm.training
        before = {name: value.clone() for name, value in one.state_dict().items()}
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            one(torch.randn(4, 3, 8, 8)).square().sum().backward()
            optimizer.step()
        moved = {n for n, v in one.state_dict().items() if not torch.equal(v, before[n])}
        assert moved == {"head.weight", "head.bias", "count"}  # `count` counts in every pass
    assert sharing_of(rules(trainable="head"), model) == sharing, "once more, the same"


@given(
    picked=st.lists(st.sampled_from(sorted(names(Odd(2, 3, 8)))), min_size=1, max_size=5),
    trained=st.none()
    | st.lists(st.sampled_from(["first.*", "norm.*", "head.*", "t*"]), min_size=1),
)
def test_every_name_has_one_place(picked: list[str], trained: list[str] | None) -> None:
    model = Odd(2, 3, 8)
    try:
        sharing = sharing_of(
            rules(tuple(picked), "all" if trained is None else tuple(trained)), model
        )
    except InputError as error:
        assert "nobody has a part" in str(error) or "nothing to share" in str(error)
        return
    roles = roles_of(model, sharing=sharing)
    parts = [roles.parameters, roles.averaged, roles.constants, roles.local, roles.fixed]
    assert sum(map(len, parts)) == len(names(model))
    assert frozenset().union(*parts) == names(model) == set(roles.whole)
    assert roles.local <= set(picked)
    if trained is None:
        assert roles.local == set(picked)
    assert set(roles.order) == names(model) - roles.stays

    # The server sends what is shared, the client has a whole model, and what stays stays.
    first = pack_state(model.state_dict())
    buffers = Buffers(roles)
    assert set(buffers.begin(first)) == roles.parameters
    sent = {n: first[n] for n in roles.order}
    content = RecordDict({"arrays": tensor_record({n: tensors(first)[n] for n in sent})})
    state = RecordDict()
    receive(roles, content, state, buffers.stays)
    whole = tensors(content.array_records["arrays"])
    assert list(whole) == list(roles.whole)
    assert all(np.array_equal(whole[n], tensors(first)[n], equal_nan=True) for n in whole)
    withhold(roles, content, state, buffers.stays)
    assert set(content["arrays"]) == set(roles.order) - roles.constants
    assert set(state.array_records.get(LOCAL, {})) == roles.local
    assert set(buffers.restored(buffers.begin(first))) == names(model)


def shared_norms(codec: str | None = None) -> tuple[Odd, Any, Buffers, RecordDict, RecordDict]:
    """A model, its roles, the server's side, a received message and the client's state."""
    from fedsim.wire.codecs import encode_tensors

    model = Odd(2, 3, 8)
    roles = roles_of(model, sharing=sharing_of(rules(("norm.*", "head.*")), model))
    buffers = Buffers(roles)
    handed = buffers.begin(pack_state(model.state_dict()))
    config, arrays = ConfigRecord({"proximal-mu": 2.0}), dict(tensors(handed))
    if codec is not None:
        config["codec"] = codec
        arrays = encode_tensors(arrays, codec)  # type: ignore[arg-type]
    others = {n: buffers.current[n] for n in roles.buffers}
    content = RecordDict({"arrays": tensor_record(arrays | others), "config": config})
    state = RecordDict()
    receive(roles, content, state, buffers.stays)
    return model, roles, buffers, content, state


@pytest.mark.parametrize("codec", [None, "float16", "uint8"])
def test_no_codec_rounds_what_stays(codec: str | None) -> None:
    _, roles, buffers, content, state = shared_norms(codec)
    model = Odd(2, 3, 8)
    load_received(model, content)
    for name in roles.local:
        assert np.array_equal(model.state_dict()[name].numpy(), tensors(buffers.stays)[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1 / 3)
    reply = RecordDict({"arrays": update(model, content), "metrics": MetricRecord({})})
    withhold(roles, reply, state, buffers.stays)
    sent = {name.removesuffix("#range") for name in reply["arrays"]}
    assert sent == roles.parameters | roles.averaged
    kept = tensors(state.array_records[LOCAL])
    for name in roles.local:
        assert kept[name].tobytes() == model.state_dict()[name].numpy().tobytes()
    # The next message finds them.
    again = RecordDict({"arrays": reply["arrays"]})
    receive(roles, again, state, buffers.stays)
    assert (
        tensors(again.array_records["arrays"])["head.bias"].tobytes() == kept["head.bias"].tobytes()
    )


def test_the_proximal_term_is_about_what_is_shared() -> None:
    model, _, _, content, _ = shared_norms()
    penalty = proximal_term(model, content)
    assert penalty is not None
    with torch.no_grad():
        model.head.weight.add_(1.0)
        model.norm.weight.add_(1.0)
    assert penalty(model).item() == 0.0
    with torch.no_grad():
        model.first.bias.add_(1.0)
    assert penalty(model).item() == pytest.approx(8.0)


def test_an_answer_that_cannot_be_kept_is_refused() -> None:
    model, roles, buffers, _, state = shared_norms()
    values = tensors(pack_state(model.state_dict()))
    lacking = {n: v for n, v in values.items() if n != "head.bias"}
    with pytest.raises(ValueError, match=r"lacks head\.bias, which stay with the client"):
        withhold(roles, RecordDict({"arrays": tensor_record(lacking)}), state, buffers.stays)
    with pytest.raises(ValueError, match=r"lacks head\.bias, head\.weight"):
        withhold(roles, RecordDict({"metrics": MetricRecord({})}), state, buffers.stays)
    rounded = values | {"head.bias": values["head.bias"].astype(np.float16)}
    with pytest.raises(ValueError, match=r"holds .head\.bias. as float16"):
        withhold(roles, RecordDict({"arrays": tensor_record(rounded)}), state, buffers.stays)
    wrong = values | {"head.bias": np.full_like(values["head.bias"], np.nan)}
    with pytest.raises(DivergedError):
        withhold(roles, RecordDict({"arrays": tensor_record(wrong)}), state, buffers.stays)
    assert LOCAL not in state


def test_an_answer_to_something_else_than_training_may_hold_a_gradient() -> None:
    model, roles, buffers, _, state = shared_norms()
    values = tensors(pack_state(model.state_dict()))
    gradient = RecordDict({"gradient": tensor_record({n: values[n] for n in roles.whole})})
    withhold(roles, gradient, state, buffers.stays, needed=False)
    assert LOCAL not in state
    assert not roles.stays & set(gradient.array_records["gradient"])
    # Nor are its numbers running statistics.
    handed = buffers.begin(pack_state(model.state_dict()))
    moved = {name: value + 1 for name, value in values.items() if value.dtype.kind == "f"}
    for trained in (False, True):
        buffers.take(RecordDict({"other": tensor_record(moved)}), trained=trained)
        restored = tensors(buffers.restored(handed))
        same = [np.array_equal(restored[n], values[n], equal_nan=True) for n in roles.averaged]
        assert any(same) != trained
    # A model by its agreed name is one in any answer.
    answer = RecordDict({"arrays": tensor_record(values)})
    withhold(roles, answer, state, buffers.stays, needed=False)
    assert set(state.array_records[LOCAL]) == roles.local


def test_an_infinite_mask_may_stay() -> None:
    model = Odd(2, 3, 8)
    roles = roles_of(model, sharing=sharing_of(rules(("cover", "head.*")), model))
    buffers, state = Buffers(roles), RecordDict()
    buffers.begin(pack_state(model.state_dict()))
    withhold(roles, RecordDict({"arrays": pack_state(model.state_dict())}), state, buffers.stays)
    assert tensors(state.array_records[LOCAL])["cover"].tolist() == [0.0, -np.inf]


def test_no_second_record_carries_what_stays() -> None:
    model, roles, buffers, content, state = shared_norms()
    assert content.config_records[STAYS]["names"] == sorted(roles.local)
    whole = pack_state(model.state_dict())
    reply = RecordDict({"arrays": whole, "control": tensor_record(tensors(whole))})
    withhold(roles, reply, state, buffers.stays)
    assert not roles.local & set(reply["control"])
    images = RecordDict(
        {
            "arrays": tensor_record(tensors(whole)),
            "images": tensor_record({"head.bias": np.ones(2)}),
        }
    )
    withhold(roles, images, state, buffers.stays)
    assert set(images["images"]) == {"head.bias"}, "what is no model is not touched"


def test_private_runs_keep_no_buffers_of_a_client() -> None:
    model = Odd(2, 3, 8)
    sharing = sharing_of(rules("norm"), model).in_private(model)
    assert sharing.local == {"norm.weight", "norm.bias"}
    assert sharing.frozen == {"norm.running_mean", "norm.running_var"}


def test_a_client_has_its_own_parts_in_the_global_model() -> None:
    model, roles, buffers, _, state = shared_norms()
    first = pack_state(model.state_dict())
    assert tensors(buffers.of_client(first, RecordDict())).keys() == set(roles.whole)
    state[LOCAL] = tensor_record({n: tensors(first)[n] + 1 for n in roles.local})
    own = tensors(buffers.of_client(first, state))
    for name in roles.whole:
        assert np.array_equal(
            own[name], tensors(first)[name] + (name in roles.local), equal_nan=True
        ) or (own[name].dtype == bool)
    load_state(Odd(2, 3, 8), buffers.of_client(first, state))
    assert parameter_names(model) >= roles.parameters
