r"""Texts of others as they may stand in a log or on a terminal: what would drive either is written as an escape.

A job's args, its worker's name or the message of an exception may hold a line end that starts a line of its own, or a
sequence that colours, erases or turns around what stands beside it. Here they become visible: `\n`, `\x1b`, `\u202e`.
"""

from __future__ import annotations

import re
from typing import Final

_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks that change the direction of what follows, so that a text reads otherwise than it is."""

_CONTROL: Final = f"\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_BIDI}"
"""C0 and C1, every end of a line that Unicode has, lone surrogates (which no stream can encode), and the marks."""

_IN_LINE: Final = re.compile(f"[{_CONTROL}]")
_IN_BLOCK: Final = re.compile(f"(?![\n\t])[{_CONTROL}]")
_IN_JSON: Final = re.compile(f"[\x7f-\x9f\u2028\u2029{_BIDI}]")
_ENDS: Final = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def line(text: str) -> str:
    """Return the text so that it stays on one line and drives no terminal; most texts are returned as they are."""
    return _IN_LINE.sub(_escape, text)


def block(text: str, *, indent: str = "") -> str:
    """Return a text of several lines so that it drives no terminal; each line begins with `indent`.

    Tabs stay. Whatever ends a line for `str.splitlines` ends it here, so that every line is indented for every reader.
    """
    return "\n".join(indent + _IN_BLOCK.sub(_escape, each) for each in _ENDS.split(text))


def in_json(text: str) -> str:
    """Return a JSON text so that it stays on one line and drives no terminal; its meaning stays as well."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")
