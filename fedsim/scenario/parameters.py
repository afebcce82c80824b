"""Parameters of a plugin: checked against its signature, explained in plain words.

A plugin's signature is its schema: names, which are required, and types. Types are checked by
pydantic without guessing: text never becomes a number, only a whole number may stand for a number.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pydantic
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic_core import ErrorDetails

from fedsim.errors import InputError, Problem, nearest
from fedsim.raising import one_line, reraise_interruption

# What NumPy's and torch's numbers hold: beyond that, they fail somewhere in the middle of a run.
_WHOLE = Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)]
_REAL = Annotated[StrictFloat, Field(gt=-3.4e38, lt=3.4e38, allow_inf_nan=False)]
_STRICT = {int: _WHOLE, float: _REAL, bool: StrictBool, str: StrictStr}
_ANY_TYPE = pydantic.ConfigDict(arbitrary_types_allowed=True)
_SHOWN_CHARACTERS = 60
# Files that call a plugin's code: never the place of its failure.
_ROOT = Path(__file__).parents[1]
_OURS = (__file__, str(_ROOT / "registry.py"), str(_ROOT / "moved.py"), importlib.__file__)

# What pydantic expected, by its error type; the words in braces are the error's own context.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "none_required": "null",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} item(s)",
    "is_instance_of": "an object of class {class}, which a scenario cannot write",
    "callable_type": "a function, which a scenario cannot write",
}


def check_parameters(
    factory: Callable[..., Any],
    parameters: Mapping[str, Any],
    *,
    supplied: Iterable[str] = (),
    known: Iterable[str] = (),
) -> list[tuple[str, str]]:
    """All that is wrong with the parameters of a class, function or `functools.partial`.

    Args:
        factory: what the parameters are for. An annotation that cannot be resolved accepts
            anything; with `**kwargs` in the signature any further key is accepted. An object that
            is ready made, not made by a class or function, takes no parameters.
        parameters: name -> value.
        supplied: parameters that fedsim passes itself; `parameters` must not set them.
        known: further names that are valid in the same block, offered when a key is misspelt.

    Returns:
        Pairs of the key and what is wrong with it, empty if all is well.
    """
    return _checked(factory, parameters, set(supplied), known)[1]


def construct(
    factory: Callable[..., Any], parameters: Mapping[str, Any], /, **supplied: Any
) -> Any:
    """Call `factory` with checked `parameters`; a whole number becomes a float where one is wanted.

    Args:
        factory: a class, function or `functools.partial`.
        parameters: name -> value, from a scenario.
        supplied: what fedsim passes itself.

    Raises:
        InputError: the parameters do not fit, or the factory raised. `Problem.where` is the name
            of the parameter, or "" if the error names none.
    """
    values, found = _checked(factory, parameters, set(supplied), ())
    problems = [Problem(key, message) for key, message in found]
    if not problems:
        try:
            return factory(**values, **supplied)
        except BaseException as error:
            reraise_interruption(error)
            problems = [Problem(*blamed(error, values))]
            raise InputError(f"{name_of(factory)} cannot be constructed", problems) from error
    raise InputError(f"{name_of(factory)} cannot be constructed", problems)


def blamed(error: BaseException, names: Iterable[str]) -> tuple[str, str]:
    """What an exception of a plugin says of its parameters: which one, or "", and why."""
    text = one_line(error)
    plain = isinstance(error, ValueError) and ": " in text
    message = text.partition(": ")[2] if plain else describe(error)
    return _named_in(message, names), message


def is_factory(value: object) -> bool:
    """Whether parameters can make something of `value`: a class, a function, a partial."""
    return (
        inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, functools.partial)
    )


def parameter_names(factory: Callable[..., Any]) -> list[str]:
    """The parameters that can be given by name, in their order."""
    return list(_signature(factory)[0])


def parameter_types(factory: Callable[..., Any]) -> dict[str, Any]:
    """The types of the same; `Any` where there is no annotation, or none that can be resolved."""
    return {name: _resolved(one, factory) for name, one in _signature(factory)[0].items()}


def name_of(factory: object) -> str:
    """The name a person knows a class, function, partial or ready-made object by."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return str(getattr(factory, "__name__", type(factory).__name__))


def describe(error: BaseException) -> str:
    """An exception in one line: its class, its message, and file:line of the line that failed."""
    where = ""
    if isinstance(error, SyntaxError):
        text, where = f"SyntaxError: {error.msg}", f"{error.filename}:{error.lineno}"
    else:
        text = one_line(error)
        for frame in traceback.extract_tb(error.__traceback__):
            if not frame.filename.startswith("<frozen importlib") and frame.filename not in _OURS:
                where = f"{frame.filename}:{frame.lineno}"
    return f"{text} ({where})" if where else text


def explain(error: pydantic.ValidationError, value: Any) -> dict[tuple[Any, ...], str]:
    """Path inside `value` -> what is wrong there, in plain words.

    Of the branches of a union those count that find fault deepest inside the value: the others are
    for values of another kind.

    Args:
        error: what pydantic raised.
        value: what it was given; tells the steps of a path from the branches of a union.
    """
    by_path: dict[tuple[Any, ...], list[ErrorDetails]] = {}
    for details in error.errors():
        by_path.setdefault(_path(details, value), []).append(details)
    above = {path[:depth] for path in by_path for depth in range(len(path))}
    return {
        path: _message(found)
        for path, found in by_path.items()
        if path not in above or any(details["type"] not in _EXPECTED for details in found)
    }


def shown(value: Any) -> str:
    """A value as a scenario writes it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a block of keys"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _checked(
    factory: Callable[..., Any],
    parameters: Mapping[str, Any],
    supplied: set[str],
    known: Iterable[str],
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The parameters, converted to the annotated types, and what is wrong with them."""
    accepted, takes_any = _signature(factory)
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for key, value in parameters.items():
        if key in supplied:
            problems.append((key, "is set by fedsim itself; remove it"))
        elif key in accepted:
            try:
                values[key] = _converted(accepted[key], factory, value)
            except pydantic.ValidationError as error:
                problems.append((key, _in_one_line(explain(error, {"value": value}))))
        elif takes_any:
            values[key] = value
        else:
            problems.append((key, _unknown(key, factory, set(accepted) - supplied, known)))
    problems += [
        (key, f"required by {name_of(factory)}, but missing")
        for key, parameter in accepted.items()
        if parameter.default is parameter.empty and key not in {*parameters, *supplied}
    ]
    return values, problems


def _unknown(key: str, factory: object, accepted: set[str], known: Iterable[str]) -> str:
    """The message about a key that `factory` does not take."""
    near = difflib.get_close_matches(key, [*accepted, *known], n=1, cutoff=0.7)
    if near:
        return f"unknown key (did you mean {near[0]!r}?)"
    if not accepted:
        return f"unknown key: {name_of(factory)} takes no parameters"
    return f"unknown key of {name_of(factory)}{nearest(key, accepted)}"


def _signature(factory: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that can be given by name, and whether any other name is taken, too."""
    if not is_factory(factory):
        return {}, False
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # written in C, without a signature
        return {}, True
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        {parameter.name: parameter for parameter in parameters if parameter.kind in by_name},
        any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters),
    )


def _converted(parameter: inspect.Parameter, factory: Callable[..., Any], value: Any) -> Any:
    """`value` as the parameter's type; raises `pydantic.ValidationError`."""
    hint = _resolved(parameter, factory)
    if parameter.default is None:
        hint = Union[hint, None]  # noqa: UP007 - `|` does not take every annotation
    try:
        model = _model(hint, repr(hint))
    except TypeError:  # a hint that cannot be hashed
        model = _model.__wrapped__(hint, "")
    if model is None:
        return value
    return model.model_validate({"value": value}).value


@functools.lru_cache(maxsize=1024)
def _model(hint: Any, _written: str) -> Any:
    """A model with one `value` of a type; None where pydantic has no use for it.

    Unions are alike in any order, but not what is said of them: how it is written counts, too.
    """
    try:
        model: Any = pydantic.create_model(
            "Parameter", __config__=_ANY_TYPE, value=(_strict(hint), ...)
        )
    except Exception:  # an annotation pydantic cannot use; what it raises then varies
        return None
    # Incomplete: a name deep inside the annotation cannot be found.
    return model if model.__pydantic_complete__ else None


def _resolved(parameter: inspect.Parameter, factory: Any) -> Any:
    """An annotation as a type; `Any` if there is none or it names what cannot be found."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    while isinstance(factory, functools.partial):
        factory = factory.func
    made_by: Any = factory.__init__ if inspect.isclass(factory) else factory
    if inspect.isclass(factory):
        writer = next(kind for kind in factory.__mro__ if "__init__" in vars(kind))
        written = vars(writer).get("__dataclass_params__")
        if written is not None and written.init:
            # A field may come from a base class in another module, whose names it is written with.
            having = (k for k in writer.__mro__ if parameter.name in inspect.get_annotations(k))
            made_by = next(having, made_by)
    module = sys.modules.get(getattr(made_by, "__module__", ""))
    namespace = getattr(inspect.unwrap(made_by), "__globals__", vars(module) if module else {})
    holder = types.SimpleNamespace(__annotations__={"value": parameter.annotation})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["value"]
    except Exception:  # imported for type checkers only, or not a type at all
        return Any


def _strict(annotation: Any) -> Any:
    """The annotation with int, float, bool and text that accept nothing else."""
    if isinstance(annotation, type) and annotation in _STRICT:
        return _STRICT[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (None, Literal) or origin is Callable:
        return annotation
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]  # type: ignore[return-value]
    parts = tuple(_strict(argument) for argument in arguments)
    return Union[parts] if origin in (Union, types.UnionType) else origin[parts]  # noqa: UP007


def _path(details: ErrorDetails, value: Any) -> tuple[Any, ...]:
    path: list[Any] = []
    for step in details["loc"]:
        inside = isinstance(value, dict) and step in value
        inside |= isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        if inside:
            value = value[step]
            path.append(step)
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return tuple(path)


def _message(errors: list[ErrorDetails]) -> str:
    """One message for all that is wrong at one place: the branches of a union are alternatives."""
    expected: list[str] = []
    for details in errors:
        kind, context = details["type"], details.get("ctx", {})
        if kind == "missing":
            return "required, but missing"
        if kind == "extra_forbidden":
            return "unknown key"
        if kind == "invalid_key":
            return f"a key must be text, not {shown(details['input'])}: put it in quotes"
        if kind not in _EXPECTED:
            return details["msg"].removeprefix("Value error, ")
        readable = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        words = _EXPECTED[kind].format(**readable)
        if words not in expected:
            expected.append(words)
    given = errors[0]["input"]
    number = expected == ["text"] and isinstance(given, bool | int | float)
    quoted = f""": put it in quotes, '"{shown(given)}"'""" if number else ""
    return f"expected {' or '.join(expected)}, got {shown(given)}{quoted}"


def _in_one_line(messages: dict[tuple[Any, ...], str]) -> str:
    """The messages about one parameter; a place inside its value is named."""
    return "; ".join(
        f"{''.join(f'[{step!r}]' for step in path[1:])} {message}".strip()
        for path, message in messages.items()
    )


def _named_in(message: str, names: Iterable[str]) -> str:
    """The first of the names that the message mentions, or ""."""
    found = {name: re.search(rf"\b{re.escape(name)}\b", message) for name in names}
    return min(
        (name for name, match in found.items() if match),
        key=lambda name: found[name].start(),  # type: ignore[union-attr]
        default="",
    )
