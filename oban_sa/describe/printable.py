r"""Foreign text made safe for logs and terminals: control characters are written as escapes.

A job's args, its worker's name or the message of an exception may contain a line end that starts a fake line of a log,
or a sequence that colours, erases or reverses what is shown beside it. Here they become visible: `\n`, `\x1b`,
`\u202e`.
"""

from __future__ import annotations

import re
from typing import Final

_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks that change the direction of text, so that it is shown in another order than it is stored."""

_CONTROL: Final = f"\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_BIDI}"
"""C0 and C1 controls, Unicode's line ends, lone surrogates (which no stream can encode), and marks of direction.

None of these is printable to `str.isprintable`, so that a look by that is enough for most texts. A subclass of str may
have another `isprintable`, and is made a plain str by the expressions below.
"""

_IN_LINE: Final = re.compile(f"[{_CONTROL}]")
_IN_BLOCK: Final = re.compile(f"(?![\n\t])[{_CONTROL}]")
_IN_JSON: Final = re.compile(f"[\x7f-\x9f\u2028\u2029{_BIDI}]")
_ENDS: Final = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def line(text: str) -> str:
    """Return the text on one line, with control characters as escapes; most texts are returned unchanged."""
    if type(text) is str and text.isprintable():
        return text
    return _IN_LINE.sub(_escape, text)


def block(text: str, *, indent: str = "") -> str:
    """Return a text of several lines with control characters as escapes; each line begins with `indent`.

    Tabs stay. Lines end where `str.splitlines` ends them, so that no reader sees a line without `indent`.
    """
    if type(text) is str and text.isprintable():
        return indent + text
    return "\n".join(indent + _IN_BLOCK.sub(_escape, each) for each in _ENDS.split(text))


def in_json(text: str) -> str:
    """Return a JSON text with the control characters that JSON allows as escapes too; it means the same."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")
