"""Arrays as they travel: records of named arrays, and the states of models in them."""

from __future__ import annotations

import io
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord

NDArray = npt.NDArray[Any]

_BOOKKEEPING = "num_batches_tracked"
_BLOCK = 1 << 15  # Values of a sum at a time: 256 kB in float64.


class LazyArray(Array):
    """A Flower Array that keeps its ndarray and serialises it only when `data` is read.

    Object id, bytes and inflation are those of a plain Array. It pickles through protocol 5's
    out-of-band buffers, so Ray's object store shares it without a copy.
    """

    # Flower writes this name into the object's header and looks the class up by it.
    __qualname__ = "Array"

    def __init__(self, ndarray: NDArray) -> None:
        ndarray = ndarray.view()
        ndarray.flags.writeable = False
        # Past Array.__setattr__, which would want `data` as bytes.
        self.__dict__.update(
            _ndarray=ndarray,
            dtype=str(ndarray.dtype),
            shape=tuple(ndarray.shape),
            stype="numpy.ndarray",
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The .npy bytes, made anew at each call. There is no setter: the array is read-only."""
        buffer = io.BytesIO()
        np.save(buffer, self.__dict__["_ndarray"], allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> NDArray:
        """A writeable copy, as a plain Array gives it (`tensors` reads without a copy)."""
        return np.array(self.__dict__["_ndarray"])

    def __repr__(self) -> str:
        return f"Array(dtype={self.dtype!r}, shape={self.shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.__dict__["_ndarray"],))


def _rebuild(ndarray: NDArray) -> LazyArray:
    return LazyArray(ndarray)


def tensor_record(
    values: Mapping[str, torch.Tensor | NDArray], *, copy: bool = True
) -> ArrayRecord:
    """An ArrayRecord of named tensors or ndarrays (any shape, any numeric or bool dtype).

    The arrays of the record are read-only and are serialised only where Flower asks for bytes.
    Entries that share memory, shape and strides share one array of the record.

    Args:
        values: name to value. Device tensors are brought to the CPU, gradients are left behind.
        copy: False shares memory with `values`; only for values that nobody writes to any more.

    Raises:
        ValueError: a value is no tensor or ndarray, or its dtype has no NumPy counterpart.
    """
    record = ArrayRecord()
    arrays: dict[Hashable, LazyArray] = {}
    for name, value in values.items():
        key = _storage(value) or name
        if key not in arrays:
            arrays[key] = LazyArray(_to_numpy(name, value, copy))
        record[name] = arrays[key]
    return record


def _to_numpy(name: str, value: torch.Tensor | NDArray, copy: bool) -> NDArray:
    if isinstance(value, torch.Tensor):
        copy = copy and value.device.type == "cpu"
        try:
            value = value.detach().cpu().numpy()
        except TypeError as error:
            raise ValueError(
                f"tensor {name!r} of {value.dtype} cannot travel: NumPy has no such type; "
                "convert it, for example to float32, before it is sent"
            ) from error
    elif isinstance(value, np.generic):  # What NumPy's arithmetic makes of arrays without axes.
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{name!r} ({kind}) cannot travel: it is not a tensor of numbers")
    # Order "A" is what np.save writes: Fortran order only for arrays that have just that.
    return np.array(value, order="A", copy=True if copy else None)


def _storage(value: object) -> Hashable:
    """Equal for two values that are the same view of the same memory; None if they cannot be."""
    if isinstance(value, torch.Tensor):
        if value.numel():
            return (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
    elif isinstance(value, np.ndarray) and value.size:
        return ("cpu", value.ctypes.data, value.dtype.str, value.shape, value.strides)
    return None


def values_of(array: Array) -> NDArray:
    """The values of an Array of either kind, read-only; without a copy if the Array is lazy."""
    if isinstance(array, LazyArray):
        return array.__dict__["_ndarray"]  # type: ignore[no-any-return]
    values: NDArray = array.numpy()
    values.flags.writeable = False
    return values


def tensors(record: ArrayRecord) -> dict[str, NDArray]:
    """The record's arrays by name, read-only; lazy ones are shared, plain ones are decoded.

    Copy an array (`numpy.array`, `torch.tensor`) before computing with it: its memory may belong
    to the server, to other clients, or to Ray's object store.
    """
    return {name: values_of(array) for name, array in record.items()}


def dismantle(array: Array) -> NDArray | tuple[str, list[int], str, bytes]:
    """An array's parts, to be stored: its values or, of an Array of Flower's own, its fields."""
    if isinstance(array, LazyArray):
        return values_of(array)
    return array.dtype, list(array.shape), array.stype, array.data


def assemble(parts: Mapping[str, NDArray | tuple[str, list[int], str, bytes]]) -> ArrayRecord:
    """The record that `dismantle` took apart, by the names of its arrays.

    Raises:
        ValueError: the parts are none.
    """
    lazy = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    record, built = ArrayRecord(), tensor_record(lazy, copy=False)
    for name, part in parts.items():
        if name in built:
            record[name] = built[name]
        else:
            dtype, shape, stype, data = part
            record[name] = Array(dtype, tuple(shape), stype, data)
    return record


def pack_state(state: Mapping[str, torch.Tensor], *, copy: bool = True) -> ArrayRecord:
    """The record that carries a module's `state_dict()`.

    Tied tensors travel once, under the first of their names; batch normalisation's counters
    (`num_batches_tracked`) do not travel.
    """
    return tensor_record({name: state[name] for name in carriers(state).values()}, copy=copy)


def carriers(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each name of a state that travels, the name it travels under (the first of a tie)."""
    first: dict[Hashable, str] = {}
    return {
        name: first.setdefault(_storage(tensor) or name, name)
        for name, tensor in state.items()
        if not _is_counter(name, tensor)
    }


def _is_counter(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor counts a layer's batches, as those of batch normalisation do."""
    return name.rpartition(".")[2] == _BOOKKEEPING and tensor.dtype == torch.int64


def unpack_state(record: ArrayRecord, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state in `record` as new tensors with the names, dtypes, devices and ties of `like`.

    Counters that did not travel are copied from `like`.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ; lists all of them.
    """
    fresh: dict[Hashable, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in like.items():
        key = _storage(tensor) or name
        if key not in fresh:
            fresh[key] = tensor.detach().clone()
        state[name] = fresh[key]
    _fill(state, record)
    return state


def load_state(module: torch.nn.Module, record: ArrayRecord) -> None:
    """Write the state in `record` into the module's own memory; counters that did not travel stay.

    A record of parameters alone, as strategies are handed, leaves all buffers as they are.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ; lists all of them and
            leaves the module as it was.
    """
    state, parameters = module.state_dict(), parameter_names(module)
    names = carriers(state)
    if not any(names.get(name, name) not in parameters for name in record if name in state):
        state = {name: tensor for name, tensor in state.items() if names.get(name) in parameters}
    _fill(state, record)


def parameter_names(module: torch.nn.Module) -> frozenset[str]:
    """The names under which a module's floating (or complex) parameters travel.

    Of tied tensors one name may be a parameter's and another a buffer's: a parameter it is.
    """
    state = module.state_dict()
    names = carriers(state)
    named = dict(module.named_parameters(remove_duplicate=False))
    return frozenset(names[name] for name in named if name in names and is_inexact(state[name]))


def is_inexact(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers that a mean makes sense of: floating or complex."""
    return tensor.is_floating_point() or tensor.is_complex()


def _fill(state: Mapping[str, torch.Tensor], record: ArrayRecord) -> None:
    """Write the arrays of `record` into the tensors of `state`, whose dtypes they take.

    A record of Flower's own making may hold more than `pack_state` sends: a tied tensor under
    several of its names (the first counts), and the counters.
    """
    names = carriers(state)
    problems = [f"unexpected {name!r}" for name in record if name not in state]
    sources: dict[str, Array] = {}
    for name, array in record.items():
        if name in state:
            sources.setdefault(names.get(name, name), array)
    problems += [
        f"missing {name!r}" for name in dict.fromkeys(names.values()) if name not in sources
    ]
    for name, array in sources.items():
        if tuple(array.shape) != tuple(state[name].shape):
            shapes = f"{tuple(array.shape)} instead of {tuple(state[name].shape)}"
            problems.append(f"{name!r} has shape {shapes}")
    if problems:
        raise ValueError("the record does not fit the model: " + "; ".join(problems))
    for name, array in sources.items():
        _write(state[name].detach(), values_of(array))


def _write(target: torch.Tensor, values: NDArray) -> None:
    # NumPy copies straight into the tensor's memory. torch.from_numpy would warn of read-only
    # memory, and share it with whoever keeps the tensor.
    if target.device.type == "cpu" and target.dtype != torch.bfloat16:
        np.copyto(target.numpy(), values, casting="unsafe")
    else:
        target.copy_(torch.from_numpy(np.array(values)))


def add_scaled(sums: dict[str, NDArray], name: str, value: NDArray, weight: float) -> None:
    """Add `weight` times an array to a sum, in float64 or wider.

    It has the bits of `sums[name] + weight * value.astype(float64)`. The product is made block by
    block in memory that stays in the processor's caches: arrays of the whole size, made anew for
    each client, cost three times as much as the arithmetic.

    Args:
        sums: what is added to, by name; a name that is not there begins with the product.
        name: of the array.
        value: any shape, floating or complex, the same shape at each call.
        weight: of it.

    Raises:
        ValueError: the array has another shape than the sum.
    """
    if name not in sums:
        sums[name] = np.empty(value.shape, np.result_type(value.dtype, np.float64))
        np.multiply(value, weight, out=sums[name], dtype=sums[name].dtype)
        return
    if sums[name].shape != value.shape:
        raise ValueError(f"{name!r} has the shape {value.shape}, not {sums[name].shape}.")
    total, flat = sums[name].reshape(-1), np.ascontiguousarray(value).reshape(-1)
    product = np.empty(min(_BLOCK, flat.size), dtype=total.dtype)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        np.multiply(part, weight, out=product[: len(part)], dtype=total.dtype)
        total[start : start + _BLOCK] += product[: len(part)]
