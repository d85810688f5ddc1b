"""The INSERT of jobs as a driver takes it: its text, and its parameters in their order.

SQLAlchemy looks a statement up, puts the schema in, converts the parameters and prepares for all kinds of results, each
time that it runs one: for a single job this takes longer than the job itself. What jobs are written with are texts and
numbers, and what comes back are an id and two moments, which need no conversion. So the text is rendered once for a
dialect and a schema (`oban_sa.outbox.rows` runs it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Dialect

from oban_sa.sql.insert import Form, inserting_values

Given: TypeAlias = tuple[object, ...] | dict[str, object]
"""Parameters as a driver takes them: by their positions, or by their names."""


class Rendered(NamedTuple):
    """A statement as a driver takes it."""

    text: str
    names: tuple[str, ...] | None
    """Those of its parameters in their order; None where the driver takes them by their names."""

    given: Callable[[dict[str, object]], Given]
    """Returns parameters that are given by their names as the driver takes them."""

    def given_as(self, names: Sequence[str]) -> Callable[[Sequence[object]], Given]:
        """Return what does the same for parameters that are given in the order of `names`, without a look at them."""
        if self.names is None:
            return lambda values: dict(zip(names, values, strict=True))
        return _picked([names.index(name) for name in self.names])


@lru_cache(maxsize=256)
def rendered(
    dialect: Dialect, schema: str | None, form: Form, *, returning: bool, notifying: bool, with_ids: bool = False
) -> Rendered:
    """Return `insert.inserting_values` as text, with the tables in `schema`; None is the default one."""
    statement = inserting_values(form, returning=returning, notifying=notifying, with_ids=with_ids)
    compiled = statement.compile(dialect=dialect, schema_translate_map={"public": schema}, render_schema_translate=True)
    names: Sequence[str] | None = getattr(compiled, "positiontup", None)
    if names is None:
        return Rendered(str(compiled), None, dict)
    return Rendered(str(compiled), tuple(names), _picked(names))


def _picked(keys: Sequence[Any]) -> Callable[[Any], tuple[object, ...]]:
    if len(keys) == 1:
        return lambda values: (values[keys[0]],)
    return itemgetter(*keys)
