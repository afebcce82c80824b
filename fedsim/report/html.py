"""Pieces of HTML: every text is escaped here, and nowhere else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

# Nothing is loaded and nothing runs, even if some text slipped through unescaped.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 0.8rem 0 1.2rem; }
caption { text-align: left; color: #555; padding-bottom: 0.2rem; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.9rem 0.2rem 0;
         border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; } tbody th { font-weight: 400; }
td.number { font-variant-numeric: tabular-nums; }
.warning { background: #fff3c4; border: 2px solid #b08900; border-radius: 4px;
           padding: 0.6rem 0.9rem; font-weight: 600; }
figure { margin: 1.4rem 0; break-inside: avoid; } img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: 0.92rem; }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; white-space: pre-wrap; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } tr { break-inside: avoid; } }
"""


def page(
    title: str, warnings: Iterable[str], sections: Iterable[str], details: tuple[str, str]
) -> str:
    """A whole document: warnings first, then sections, then a text that opens on request."""
    summary, text = details
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
        + "".join(f'<p class="warning" role="note">{escape(one)}</p>\n' for one in warnings)
        + "".join(sections)
        + f"<details>\n<summary>{escape(summary)}</summary>\n<pre>{escape(text)}</pre>\n"
        "</details>\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A section with its heading; `body` is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>\n"


def items(texts: Iterable[str]) -> str:
    """A list."""
    return "<ul>\n" + "".join(f"<li>{escape(str(text))}</li>\n" for text in texts) + "</ul>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> str:
    """A table; the first cell of each row is its header. Numbers show four digits or more."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = ""
    for first, *others in rows:
        cells = "".join(_cell(value) for value in others)
        body += f'<tr><th scope="row">{escape(_text(first))}</th>{cells}</tr>\n'
    return (
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table>\n"
    )


def image(png: bytes, *, alt: str, caption: str, source: str | None) -> str:
    """A figure with its PNG in it; `source` is the file beside the page with its numbers."""
    data = b64encode(png).decode()
    link = f' Numbers: <a href="{quote(source)}">{escape(source)}</a>.' if source else ""
    return (
        f'<figure>\n<img alt="{escape(alt)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(caption)}{link}</figcaption>\n</figure>\n"
    )


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = ' class="number"' if number else ""
    return f"<td{kind}>{escape(_text(value))}</td>"


def _text(value: Any) -> str:
    """A value for a person; the JSON files beside the page hold it in full."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.5g}"
    if isinstance(value, list | tuple):
        return " ".join(_text(one) for one in value)
    return str(value)
