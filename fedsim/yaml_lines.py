"""YAML that remembers where every key was written, so that an error can point at its line.

PyYAML's safe loader with four differences: `1e-3` is a number (YAML 1.1 reads text); a key that is
written twice is a problem; so is what YAML 1.1 reads as something else than it looks like (`010`,
`1:30`, `no`, a date, `<<`) and a number of hundreds of digits; and a document may have so many
values, and no more, however its aliases multiply them. `.inf` and `.nan` are read: who takes the
document says where they are allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedsim.errors import InputError, Problem
from fedsim.files import read_regular

KeyPath = tuple[Any, ...]
"""Keys (and positions in lists) from the top of a document to a value."""

_MAPPING, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_MERGE, _FLOAT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:float"
_BOOL, _INT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int"
_TIME = "tag:yaml.org,2002:timestamp"
_READ = {_BOOL, _INT, _FLOAT, _TIME, *(f"tag:yaml.org,2002:{n}" for n in ("str", "null", "value"))}
_DEEPEST = 50
MOST_BITS = 256
"""What a whole number may have."""
_SHOWN = 20
_NOT_YAML = "is not YAML"
_MOST_NODES = 20_000
_TOO_MANY = f"there are more than {_MOST_NODES} values, counted as often as aliases repeat them"
MOST_BYTES = 1_000_000
"""What a document may be long: a file, or a value of the command line."""
_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Stops at documents that are too long to be a person's."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node, as PyYAML does."""
        self._composed += 1
        if self._composed > _MOST_NODES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=_TOO_MANY, problem_mark=mark)
        return super().compose_node(parent, index)


class _Unusable(yaml.MarkedYAMLError):
    """It is YAML, but a value that nothing here can hold."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML reads these characters back as line ends unless they are escaped.
    style = '"' if set(text) & set("\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


class _OneLine(_Dumper):
    pass


def _text_in_a_line(dumper: _Dumper, text: str) -> yaml.Node:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"')
    return _text(dumper, text)


_Dumper.add_representer(str, _text)
_OneLine.add_representer(str, _text_in_a_line)
for _yaml in (_Loader, _Dumper, _OneLine):  # the dumper must know what it has to put in quotes
    _yaml.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True)
class Place:
    """Where something was written: a file and its line from 1, or a part of the command line."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass
class Document:
    """The values of a YAML document and where each was written.

    Attributes:
        values: the top-level mapping.
        places: path of keys -> place; () is the document.
        problems: what is wrong with the document although it can be read.
    """

    values: dict[Any, Any]
    places: dict[KeyPath, Place]
    problems: list[tuple[Place, str]] = field(default_factory=list)

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """The value at `path`, or `default` if a key of it does not exist."""
        value: Any = self.values
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def place(self, path: KeyPath) -> Place:
        """Where `path` was written, or the nearest block around it that was."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def put(self, path: KeyPath, value: Any, places: Mapping[KeyPath, Place]) -> None:
        """Set the value at `path`, replacing what was there; blocks around it are made if missing.

        `places` are relative to `path`.

        Raises:
            ValueError: a part of the path is a value and not a block of keys.
        """
        block = self.values
        for depth in range(1, len(path)):
            child = block.get(path[depth - 1])
            if child is None:
                child = block[path[depth - 1]] = {}
                self.places[path[:depth]] = places[()]
            if not isinstance(child, dict):
                name = ".".join(map(str, path[:depth]))
                raise ValueError(f"{name} has no keys of its own: write {name}=...")
            block = child
        block[path[-1]] = value
        if path in self.places:
            self.places = _without(self.places, path)
        self.places |= {(*path, *inner): at for inner, at in places.items()}

    def places_below(self, path: KeyPath) -> dict[KeyPath, Place]:
        """The places at and below `path`, relative to it."""
        length = len(path)
        return {
            inner[length:]: at for inner, at in self.places.items() if inner[:length] == path
        } or {(): self.place(path)}


def read(text: str, source: str) -> Document:
    """Read a YAML document whose top level is a mapping.

    Raises:
        InputError: it is not YAML, or not a mapping; names `source`, line and column.
    """
    reader = _Reader(source)
    values = reader.value(text)
    if not isinstance(values, dict):
        what = "is empty" if values is None else "is not a block of keys"
        problem = Problem(f"{source}:1", "expected lines of the form 'key: value'")
        raise InputError(f"{source} {what}", [problem])
    return Document(values, reader.places, reader.problems)


def read_file(path: Path) -> dict[Any, Any]:
    """The values of a YAML file of settings whose top level is a mapping: of anybody's file.

    Raises:
        InputError: it cannot be read, is longer than `MOST_BYTES`, is not YAML or not a mapping,
            has more values than a person writes, or one that says something else than it looks
            like; names the file.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path} cannot be read: {why}") from error
    document = read(text, str(path))
    if document.problems:
        problems = [Problem(str(place), why) for place, why in document.problems]
        raise InputError(f"{path} is wrong", problems)
    return document.values


def read_value(text: str, place: Place) -> tuple[Any, list[tuple[Place, str]]]:
    """Read one value of the command line: the value, and what is wrong with it.

    Raises:
        InputError: it is not YAML.
    """
    reader = _Reader(place.source, is_file=False)
    return reader.value(text), reader.problems


def write(values: Mapping[str, Any], sort: bool = False) -> str:
    """The values as YAML that `read` reads back, keys in their order or sorted."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=sort, allow_unicode=True, default_flow_style=None
    )


def write_value(value: Any, sort: bool = True) -> str:
    """One value as YAML in one line, keys sorted or in their order."""
    text = yaml.dump(
        value,
        Dumper=_OneLine,
        sort_keys=sort,
        allow_unicode=True,
        default_flow_style=True,
        width=MOST_BYTES,
    )
    return str(text).removesuffix("...\n").strip()


class _Reader:
    def __init__(self, source: str, is_file: bool = True) -> None:
        self.source, self.is_file = source, is_file
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[tuple[Place, str]] = []
        self._built = 0

    def value(self, text: str) -> Any:
        if len(text) > MOST_BYTES:
            raise self._unreadable(1, 1, f"longer than {MOST_BYTES} characters")
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                return None
            self.places[()] = self._place(node)
            for mapping in _mappings(node, set()):
                self._check_keys(loader, mapping)
            return self._build(loader, node, (), [])
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - text.rfind("\n", 0, error.position)
            what = f"the character U+{error.character:04X} is not allowed"
            raise self._unreadable(line, column, what) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(part for part in (error.context, error.problem) if part)
            if "'\\t'" in what:
                what = "a tab stands here; YAML wants spaces"
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            headline = "holds what cannot be used" if isinstance(error, _Unusable) else _NOT_YAML
            raise self._unreadable(line, column, what, headline) from error
        except RecursionError as error:
            raise self._unreadable(1, 1, "blocks inside blocks without an end") from error

    def _unreadable(
        self, line: int, column: int, what: str, headline: str = _NOT_YAML
    ) -> InputError:
        where = f"{self.source}:{line}:{column}" if self.is_file else self.source
        return InputError(f"{self.source} {headline}", [Problem(where, what)])

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.source, node.start_mark.line + 1 if self.is_file else 0)

    def _check_keys(self, loader: _Loader, mapping: yaml.MappingNode) -> None:
        """Note every key of one mapping that is written twice."""
        first: dict[Any, Place] = {}
        for key_node, _ in mapping.value:
            key = self._key(loader, key_node)
            if why := _surprise(key_node, key):
                self.problems.append((self._place(key_node), why))
            if key in first:
                earlier = f" in line {first[key].line}" if self.is_file else ""
                self.problems.append((self._place(key_node), f"{key!r} is already set{earlier}"))
            first.setdefault(key, self._place(key_node))

    def _build(
        self, loader: _Loader, node: yaml.Node, path: KeyPath, around: list[yaml.Node]
    ) -> Any:
        """The value of a node; notes the place of every key and list item in it."""
        self._built += 1
        if any(node is outer for outer in around) or len(around) > _DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"contains itself or is more than {_DEEPEST} blocks deep",
                problem_mark=node.start_mark,
            )
        if self._built > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem=_TOO_MANY, problem_mark=node.start_mark)
        around = [*around, node]
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
            items = []
            for position, item in enumerate(node.value):
                self.places[(*path, position)] = self._place(item)
                items.append(self._build(loader, item, (*path, position), around))
            return items
        if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING:
            block = {}
            for key_node, value_node in node.value:
                key = self._key(loader, key_node)
                inner = (*path, key)
                self.places[inner] = self._place(key_node)
                block[key] = self._build(loader, value_node, inner, around)
            return block
        value = self._scalar(loader, node)
        if why := _surprise(node, value):
            self.problems.append((self._place(node), why))
        return value

    def _key(self, loader: _Loader, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=node.start_mark)
        key = node.value if node.tag == _MERGE else self._scalar(loader, node)
        if isinstance(key, float) and math.isnan(key):  # It is not even equal to itself.
            raise yaml.MarkedYAMLError(
                problem=f"a key must be text, not {node.value}", problem_mark=node.start_mark
            )
        return key

    def _scalar(self, loader: _Loader, node: yaml.Node) -> Any:
        if node.tag in loader.yaml_constructors and node.tag not in _READ:
            raise yaml.MarkedYAMLError(
                problem=f"{node.tag.replace('tag:yaml.org,2002:', '!!')}: tags are not read",
                problem_mark=node.start_mark,
            )
        try:
            value = loader.construct_object(node, deep=True)
        except yaml.YAMLError:
            raise
        except Exception as error:  # a date or number that does not exist; PyYAML does not say more
            what = f"{_cut(node.value)} cannot be read as {node.tag.rpartition(':')[2]}"
            raise _Unusable(problem=what, problem_mark=node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            what = f"expected a number of at most {MOST_BITS} bits, got {_cut(node.value)}"
            raise _Unusable(problem=what, problem_mark=node.start_mark)
        return value


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _surprise(node: yaml.Node, value: Any) -> str:
    """Why YAML 1.1 reads an unquoted value as something else than it looks like; "" if not so."""
    text = node.value
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return ""
    quoted = f"'{text}' in quotes for text"
    if node.tag == _MERGE:
        return "'<<' merges another block here: write its keys out, or use profiles"
    if node.tag == _BOOL and text.lower() not in ("true", "false"):
        word = "true" if value else "false"
        return f"{text} is read as {word}: write {word}, or {quoted}"
    if node.tag == _TIME:
        return f"{text} is read as a date: write {quoted}"
    if node.tag == _INT and re.fullmatch(r"[-+]?0[0-7]+", text):
        return f"{text} is read as the octal number {value}: write {value}, or {quoted}"
    if node.tag in (_INT, _FLOAT) and ":" in text:
        return f"{text} is read as the number {value}, to the base of 60: write {quoted}"
    if node.tag in (_INT, _FLOAT) and "_" in text:
        return f"{text} is read as the number {value}: write {value}, or {quoted}"
    return ""


def _without(places: dict[KeyPath, Place], path: KeyPath) -> dict[KeyPath, Place]:
    """The places that are neither at nor below `path`."""
    return {other: at for other, at in places.items() if other[: len(path)] != path}


def _mappings(node: yaml.Node, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """All mappings of a document, each once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        children = [part for pair in node.value for part in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        yield from _mappings(child, seen)
