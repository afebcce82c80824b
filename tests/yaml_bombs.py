"""Short YAML that a plain reader takes for ever to read, or does not survive."""

from __future__ import annotations


def _levels(first: str, inner: str) -> str:
    """Blocks each of which repeats the one before nine times."""
    lines = [f"  a0: &a0 {first}"]
    for level in range(1, 12):
        again = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"  a{level}: &a{level} {inner.format(again)}")
    return "\n".join(["bomb:", *lines, ""])


YAML_BOMBS = {
    "merged": _levels("{k0: 1, k1: 1, k2: 1}", "{{<<: [{}]}}"),
    "repeated": _levels("[1, 1, 1]", "[{}]"),
    "nested": "bomb: " + "[" * 5000 + "]" * 5000 + "\n",
}
"""What it does -> the text, one key `bomb`."""
