"""The key of a job as an expression, the same text as `oban_sa.jobs.keys` makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy import Text, case, cast, func, literal
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.jobs.keys import KEPT, LONGEST, Path, Paths
from oban_sa.models.base import Expression
from oban_sa.sql.insert import array_text

Part: TypeAlias = Callable[[Path], Expression]
"""Returns the value at a path, as JSON."""


def key_of(paths: Paths, part: Part) -> Expression:
    """Return the key that the values at these paths make; NULL where there is one, and it is missing or null."""
    if paths.alone:
        return bounded(part(paths.paths[0]).op("#>>")(_path(())))
    return bounded(cast(func.jsonb_build_array(*(part(path) for path in paths.paths), type_=JSONB), Text))


def inside(value: Expression, path: Path) -> Expression:
    """Return the value at a path inside of a JSON one, as JSON."""
    return value.op("#>", return_type=JSONB())(_path(path)) if path else value


def bounded(key: Expression) -> Expression:
    """Return a key that is short enough for an index."""
    hashed = func.encode(func.sha256(func.convert_to(key, "UTF8")), "hex", type_=Text())
    shorter = func.concat(func.left(key, KEPT), "#", hashed, type_=Text())
    return case((func.length(key) > LONGEST, shorter), else_=key)


def _path(path: Path) -> Expression:
    return cast(literal(array_text(path), Text), ARRAY(Text))
