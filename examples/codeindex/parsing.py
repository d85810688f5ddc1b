"""What a file of Python code defines. Nothing but the standard library is needed here, so processes start fast."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import TypeAlias

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
KINDS = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "async function", ast.ClassDef: "class"}

Found: TypeAlias = tuple[str, str, int]
"""A kind, a name and a line."""


class RefusedError(Exception):
    """The file can't be parsed; the message says why."""


def symbols_in(path: str) -> list[Found]:
    """Return every function and class that a file defines, however deep; raises `RefusedError`, and `OSError`."""
    # Bytes, not text: the compiler knows best which encoding a file declares.
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    # A NUL in the source is a ValueError for some versions of Python; the last two are for what is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(_reason(error)) from None
    # ast.walk doesn't recurse, so a tree that could be made can be walked.
    symbols = (node for node in ast.walk(tree) if isinstance(node, Definition))
    return [(KINDS[type(node)], node.name, node.lineno) for node in symbols]


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})" if error.lineno else str(error.msg)
    return str(error) or "too complex to parse"
