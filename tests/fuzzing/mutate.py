"""Mutations of texts, bytes, values and files. All that is drawn comes from the given generator."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_NAMES = (
    *("", " ", ".", "..", "../../../../../../../escape", "ROOT/planted", "a/b", "a\\b", "CON"),
    *("=1+1", "@x", "\x1b[31mred\x1b[0m", "a\nb", "a\tb", "$x$", "\\frac{", "é", "e\u0301", "日本"),
    *("x" * 300, "-v", "--help", "%s", "{}", "'", '"', "a,b", "a;b", "null", "~", "#", "\u202eabc"),
    *("site-0", "Site-0", "SITE-0", "latest", "nan", "1e5", "0x10", "\x00", "<b>x</b>", "|", "*"),
)
"""Names of sites, labels, patients, files and keys; ROOT stands for the folder that is watched."""

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.0, -0.5, 0.5, 1.0, 1.5, 1e-300, 1e300),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "x", "1", "0.5", "nan", "yes", "1:30"),
    *([], [1], [[]], [None], {}, {"name": "x"}, {"name": None}, {"a": {"b": {}}}, "ROOT/planted"),
    *("../x", "/dev/null", "/", ".", "é\u0000", "\x1b[2J", "=1+1", "random.Random", "os.system"),
)
"""Values of settings. None of them asks for much: what takes long because it was told to is no
fault."""


def odd_name(rng: random.Random) -> str:
    """A name that something may stumble over."""
    return rng.choice(ODD_NAMES)


def tree(value: Any, rng: random.Random, times: int = 1) -> Any:
    """A nested mapping or list with some entries changed, renamed, taken out, added or swapped."""
    value = json.loads(json.dumps(value))
    for _ in range(times):
        places = list(_places(value))
        if not places:
            return rng.choice(ODD_VALUES)
        parent, key = rng.choice(places)
        what = rng.randrange(6)
        if what < 2:
            parent[key] = rng.choice(ODD_VALUES)
        elif what == 2:
            del parent[key]
        elif what == 3 and isinstance(parent, dict):
            parent[odd_name(rng) if rng.random() < 0.5 else f"{key}x"] = parent.pop(key)
        elif what == 4:
            other, name = rng.choice(places)
            try:
                parent[key] = json.loads(json.dumps(other[name]))
            except (KeyError, IndexError, ValueError):
                parent[key] = None
        elif isinstance(parent, dict):
            parent[odd_name(rng)] = rng.choice(ODD_VALUES)
        else:
            parent.append(rng.choice(ODD_VALUES))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every mapping or list in a value with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    found: list[tuple[Any, Any]] = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found += [(value, key), *_places(inner)]
    return found


def text(content: str, rng: random.Random) -> bytes:
    """A text with lines or letters changed, or in another coding."""
    lines = content.split("\n")
    where = rng.randrange(len(lines))
    what = rng.randrange(14)
    if what == 0:
        del lines[where]
    elif what == 1:
        lines.insert(where, lines[rng.randrange(len(lines))])
    elif what == 2:
        lines[where] = " " * rng.randrange(1, 4) + lines[where]
    elif what == 3:
        lines[where] = lines[where].replace(" ", "\t")
    elif what == 4:
        lines[where] += rng.choice(('"', "'", ",", ";", ":", "{", "[", "#", "&a", "*a", "!!x"))
    elif what == 5:
        lines[where] = odd_name(rng)
    elif what == 6:
        lines[where] = lines[where] * rng.randrange(2, 2000)
    elif what == 7:
        return "\n".join(lines)[: rng.randrange(len(content) + 1)].encode()
    elif what == 8:
        return b"\xef\xbb\xbf" + content.encode()
    elif what == 9:
        return content.encode(rng.choice(("utf-16", "utf-32", "utf-7")))
    elif what == 10:
        return content.replace("\n", rng.choice(("\r\n", "\r"))).encode()
    elif what == 11:
        return (content + "é").encode("latin-1", "replace")
    elif what == 12:
        return noise(content.encode(), rng)
    else:
        rng.shuffle(lines)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def noise(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some of them changed, taken out, put in, or cut off."""
    data = bytearray(content)
    what = rng.randrange(5)
    size = len(data)
    if what == 0 or not size:
        data[rng.randrange(size + 1) :] = b""
    elif what == 1:
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(size)] = rng.randrange(256)
    elif what == 2:
        start = rng.randrange(size)
        data[start : start + rng.randrange(1, 200)] = b"\0" * rng.randrange(200)
    elif what == 3:
        start = rng.randrange(size)
        data[start:start] = rng.randbytes(rng.randrange(1, 100))
    else:
        data[: min(size, 64)] = rng.randbytes(min(size, 64))
    return bytes(data)


def replace(path: Path, rng: random.Random) -> None:
    """Put something else where a file is: nothing, a folder, a pipe, a link, an empty file."""
    path.unlink()
    what = rng.randrange(7)
    if what == 1:
        path.mkdir()
    elif what == 2:
        os.mkfifo(path)
    elif what == 3:
        path.symlink_to(path.name)
    elif what == 4:
        path.symlink_to("nowhere")
    elif what == 5:
        path.symlink_to("/dev/zero")
    elif what == 6:
        path.write_bytes(b"")


def table(content: str, rng: random.Random) -> bytes:
    """A CSV with cells, columns, rows or its dialect changed."""
    rows = [line.split(",") for line in content.strip().split("\n")]
    changes: tuple[Callable[[], None], ...] = (
        lambda: rows.__setitem__(0, [name.upper() for name in rows[0]]),
        lambda: rows[0].__setitem__(rng.randrange(len(rows[0])), odd_name(rng)),
        lambda: rows.insert(1, list(rows[0])),
        lambda: rows.append(list(rng.choice(rows))),
        lambda: rows[rng.randrange(len(rows))].pop(),
        lambda: rows[rng.randrange(len(rows))].append(odd_name(rng)),
        lambda: rows.__setitem__(slice(1, None), []),
        lambda: _cells(rows, rng, 1),
        lambda: _cells(rows, rng, 5),
        lambda: _column(rows, rng),
        lambda: _column(rows, rng),
    )
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(changes)()
        rows = [row for row in rows if row] or [[""]]
    mark = rng.choice((",", ",", ",", ",", ";", "\t", "|", ", "))
    made = "\n".join(mark.join(row) for row in rows) + "\n"
    return text(made, rng) if rng.random() < 0.2 else made.encode("utf-8", "surrogatepass")


def sites(content: str, rng: random.Random) -> bytes:
    """A table whose sites, in its last column, have two odd names."""
    first, *rows = content.strip().split("\n")
    names = [odd_name(rng).replace(",", "").replace("\n", " ") for _ in range(2)]
    made = [row.rpartition(",")[0] + "," + names[k // 2 % 2] for k, row in enumerate(rows)]
    return ("\n".join([first, *made]) + "\n").encode("utf-8", "surrogatepass")


def bomb(rng: random.Random) -> str:
    """YAML that is small and stands for much: aliases of aliases, or deep nesting."""
    if rng.random() < 0.3:
        return "deep: " + "[" * 3000 + "]" * 3000 + "\n"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for k in range(1, rng.choice((9, 30))):
        lines.append(f"a{k}: &a{k} [" + ", ".join([f"*a{k - 1}"] * 9) + "]")
    return "\n".join(lines) + "\n"


def _cells(rows: list[list[str]], rng: random.Random, count: int) -> None:
    for _ in range(count):
        row = rng.choice(rows)
        if row:
            row[rng.randrange(len(row))] = odd_name(rng)


def _column(rows: list[list[str]], rng: random.Random) -> None:
    """One column the same, or odd, in all rows."""
    width = min(map(len, rows))
    if not width:
        return
    column, name = rng.randrange(width), odd_name(rng)
    for row in rows[1:]:
        row[column] = name if rng.random() < 0.8 else odd_name(rng)
