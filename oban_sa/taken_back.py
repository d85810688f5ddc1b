"""Jobs whose rows are taken back: what they were given with references is what they hold again.

A flush puts values in place of references. Where it fails, or its transaction or savepoint rolls back, the objects that
were referred to may get other keys when they are written again, and so a job that is enqueued again has to ask anew.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.orm import InstanceState


class Given:
    """What jobs were given until their transaction ends, by job and column; keeps no job alive."""

    __slots__ = ("_by_job",)

    def __init__(self) -> None:
        self._by_job: WeakKeyDictionary[InstanceState[Any], dict[str, tuple[Any, Any]]] = WeakKeyDictionary()

    def note(self, state: InstanceState[Any], column: str, given: Any, written: Any) -> None:
        """Take note that `written` now stands in a column in place of `given`."""
        self._by_job.setdefault(state, {})[column] = given, written

    def restore(self, state: InstanceState[Any]) -> None:
        """Give a job that has no row any more what it was given, but for what was changed since."""
        loaded = state.dict
        for column, (given, written) in self._by_job.pop(state, {}).items():
            if loaded.get(column) is written:
                loaded[column] = given
