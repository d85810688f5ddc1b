"""Tags of Erlang's external term format, and the depth of nesting that its terms may have here."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 256
"""Levels of containers inside each other; erlpack's own limit."""

VERSION: Final = 131
ATOM, SMALL_ATOM, ATOM_UTF8, SMALL_ATOM_UTF8 = 100, 115, 118, 119
SMALL_INTEGER, INTEGER, SMALL_BIG, LARGE_BIG = 97, 98, 110, 111
FLOAT, NEW_FLOAT = 99, 70
NIL, STRING, LIST, BINARY = 106, 107, 108, 109
SMALL_TUPLE, LARGE_TUPLE, MAP = 104, 105, 116
COMPRESSED = 80
