"""Tensors out of files of every format, and one clear error for all that is none."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedsim.errors import InputError
from fedsim.pretrained import read_weights

onnx = pytest.importorskip("onnx")
TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "float64": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
}
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(7)}
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def same(found: dict[str, torch.Tensor], wanted: dict[str, Any]) -> bool:
    """Whether names, types, shapes and values are the same."""
    return set(found) == set(wanted) and all(
        found[name].dtype == torch.as_tensor(value).dtype
        and torch.equal(found[name], torch.as_tensor(value))
        for name, value in wanted.items()
    )


def model_of(tensors: list[Any], nodes: list[Any] | None = None) -> bytes:
    """The bytes of an ONNX file with these initialisers."""
    graph = onnx.helper.make_graph(nodes or [], "graph", [], [], initializer=tensors)
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


def tensor(name: str, values: np.ndarray, raw: bool) -> Any:
    """A TensorProto, its values as bytes or listed."""
    if raw:
        return onnx.numpy_helper.from_array(values, name)
    kind = TYPES[str(values.dtype)]
    return onnx.helper.make_tensor(name, kind, values.shape, values.ravel().tolist())


# --- What is read --------------------------------------------------------------------------------


def test_safetensors_are_read_with_any_ending(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.bin"):
        save_file(STATE, tmp_path / name)
        assert same(read_weights(tmp_path / name), STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": {"state_dict": STATE}, "optimizer": {"lr": 0.1}},
        {f"module.{name}": value for name, value in STATE.items()},
        {name: torch.nn.Parameter(v) if v.is_floating_point() else v for name, v in STATE.items()},
        {**STATE, "epoch": 3},
    ],
)
def test_state_dicts_are_read_where_they_lie(content: Any, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path), STATE)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", list(TYPES))
def test_initialisers_of_every_type_are_read(dtype: str, raw: bool, tmp_path: Path) -> None:
    values = np.array([[0, 1, -2], [100, -(2**9), 2**10]]).astype(dtype)
    wanted = {"some": values, "one": values[0, 1].reshape(()), "none": values[:0]}
    path = tmp_path / "w.onnx"
    path.write_bytes(model_of([tensor(name, value, raw) for name, value in wanted.items()]))
    assert same(read_weights(path), wanted)
    (tmp_path / "w").write_bytes(path.read_bytes())
    assert same(read_weights(tmp_path / "w"), wanted)


@SETTINGS
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.booleans())
def test_integers_of_any_size_are_read(tmp_path: Path, values: list[int], raw: bool) -> None:
    array = np.array(values, np.int64)
    path = tmp_path / "w.onnx"
    path.write_bytes(model_of([tensor("it", array, raw)]))
    assert same(read_weights(path), {"it": array})


def test_tensors_of_other_types_are_left_out(tmp_path: Path) -> None:
    kept = np.ones(2, np.float32)
    others = [onnx.numpy_helper.from_array(np.ones(2, t), t.__name__) for t in (np.uint8, np.bool_)]
    path = tmp_path / "w.onnx"
    path.write_bytes(model_of([*others, onnx.numpy_helper.from_array(kept, "kept")]))
    assert same(read_weights(path), {"kept": kept})


def test_a_linear_layer_gets_its_name_and_shape_again(tmp_path: Path) -> None:
    folded = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/net/fc.1/MatMul"),
        onnx.helper.make_node("MatMul", ["y", "own"], ["z"], name="/net/last/MatMul"),
        onnx.helper.make_node("Add", ["y", "onnx::Add_9"], ["u"], name="/net/sum/Add"),
    ]
    tensors = [tensor(name, folded, True) for name in ("onnx::MatMul_7", "own", "onnx::Add_9")]
    path = tmp_path / "w.onnx"
    path.write_bytes(model_of(tensors, nodes))
    wanted = {"net.fc.1.weight": folded.T, "own": folded, "onnx::Add_9": folded}
    assert same(read_weights(path), {k: np.ascontiguousarray(v) for k, v in wanted.items()})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_exports_has_the_names_of_the_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    path = tmp_path / "w.onnx"
    torch.onnx.export(model, (torch.zeros(1, 5, 3),), path, dynamo=False)
    found = read_weights(path)
    assert {n: v for n, v in found.items() if n in model.state_dict()}.keys() == set(
        model.state_dict()
    )
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


# --- What is refused -----------------------------------------------------------------------------


class Code:
    """A pickle of it writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it was run"
    torch.save({**STATE, "x": Code(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="could run code") as caught:
        read_weights(path)
    assert "state_dict" in caught.value.hint
    path.write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(InputError, match="could run code"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w", "w.safetensors", "w.pth", "w.onnx"])
@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x08", b"PK\x03\x04", b"\x80\x02", b"\xff" * 99]
)
def test_what_is_no_file_of_weights_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} (is|holds) (no|not|a pickle)"):
        read_weights(path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for content in ({}, {"epoch": 3}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(InputError, match="holds no tensors"):
            read_weights(path)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(InputError, match=f"{path} cannot be read"):
            read_weights(path)


def test_few_bytes_that_claim_to_be_many_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(InputError, match="'a' is not stored as a dense tensor"):
        read_weights(path)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(InputError, match="'a' is not stored as a dense tensor"):
        read_weights(path)


def test_a_shape_that_the_bytes_do_not_fill_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.onnx"
    for dims, says in (([2**40, 2**20], "instead of"), ([-1], "has the shape"), ([3], "instead")):
        wrong = onnx.TensorProto(
            name="it", data_type=onnx.TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8
        )
        path.write_bytes(model_of([wrong]))
        tracemalloc.start()
        with pytest.raises(InputError, match=f"'it'.*{says}"):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
        tracemalloc.stop()


def test_tensors_that_lie_in_other_files_are_refused(tmp_path: Path) -> None:
    outside = tensor("it", np.ones(2, np.float32), True)
    onnx.external_data_helper.set_external_data(outside, "/etc/passwd")
    path = tmp_path / "w.onnx"
    path.write_bytes(model_of([outside]))
    with pytest.raises(InputError, match="keeps its tensors in other files"):
        read_weights(path)


WHOLE = model_of(
    [
        tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3), True),
        tensor("b", np.array([300, -1]), False),
        tensor("c", np.array([1.5], np.float16), False),
    ],
    [onnx.helper.make_node("MatMul", ["x", "a"], ["y"], name="/net/MatMul")],
)

GRAPH = onnx.load_from_string(WHOLE).graph.SerializeToString()


@SETTINGS
@given(st.integers(0, WHOLE.index(GRAPH) + len(GRAPH) - 1))
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(InputError, match=f"{path} (is no ONNX file|holds no tensors)"):
        read_weights(path)


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8))
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for place, byte in changes:
        content[place] = byte
    path = tmp_path / "w.onnx"
    path.write_bytes(content)
    try:
        found = read_weights(path)
    except InputError as error:
        assert str(path) in error.headline
    else:
        assert sum(value.nbytes for value in found.values()) <= len(content)


@SETTINGS
@given(st.integers(0, 2**32))
def test_a_damaged_state_dict_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 6):
        content[place] = rng.integers(0, 256)
    path.write_bytes(content)
    try:
        read_weights(path)
    except InputError as error:
        assert str(path) in error.headline
