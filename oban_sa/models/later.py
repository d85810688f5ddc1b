"""A moment counted by the database: its now, and a span."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, Self, SupportsIndex, cast

from sqlalchemy import ColumnElement, DateTime, Interval, func, literal, literal_column

from oban_sa.models.base import Expression
from oban_sa.schedule import clock

_CLOCK: Final[ColumnElement[datetime]] = func.timezone(
    literal_column("'UTC'"), func.clock_timestamp(), type_=DateTime()
)


class Later(datetime):
    """`span` from the database's now, whenever that is asked; until then, this machine's estimate of the moment.

    Put into a statement it is the database's own addition. What is computed from one, by `+` or `replace` for instance,
    is a plain datetime.
    """

    span: timedelta

    def __new__(cls, *parts: Any, span: timedelta | None = None, **more: Any) -> Self:
        """Make one, or where there is no `span` a datetime, which is what Python makes all results of this class by."""
        if span is None:
            return cast("Self", datetime(*parts, **more))  # noqa: DTZ001 - the result of Python's own arithmetic
        made = super().__new__(cls, *parts, **more)
        made.span = span
        return made

    @classmethod
    def after(cls, span: timedelta) -> Self:
        """Return the moment that is `span` from now."""
        return cls.of(clock.now() + span, span)

    @classmethod
    def of(cls, at: datetime, span: timedelta) -> Self:
        """Return a moment that is estimated as `at`."""
        parts = (at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond)
        return cls(*parts, at.tzinfo, span=span)

    def __clause_element__(self) -> Expression:
        """Return it as SQL."""
        # Not the transaction's now: at the end of a long one, which may be a worker's own, that is long past, and a job
        # for "in a minute" would be due at once.
        added: Expression = _CLOCK + literal(self.span, Interval())
        return added

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        """Keep the span in copies."""
        return Later.of, (self._plain(), self.span)

    def replace(self, *parts: Any, **more: Any) -> Any:
        """Return a plain datetime with other parts."""
        return self._plain().replace(*parts, **more)  # Python's own would not ask `__new__`

    def _plain(self) -> datetime:
        return self + timedelta(0)
