"""How the jobs of a queue are taken and their outcomes written: the statements of a producer, made of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import CTE, BigInteger, ColumnElement, Executable, cast, null, select, union_all

from oban_sa.sql.ack import ack, ack_one, write, write_completed
from oban_sa.sql.fetch import FETCHED, NOT_SPENT, Filter, of_producer, take, then
from oban_sa.sql.followers import Follower, follow
from oban_sa.sql.room import are_limits, fetch_within


@dataclass(frozen=True, slots=True)
class Plan:
    """The filters of a queue's fetches and the followers of its acks.

    Without any the statements are the plain ones. Plans with the same filters and followers are equal and share their
    compiled statements; `parameters`, the values of the filters' parameters, may differ. With filters of limits the
    statements that fetch are those of `oban_sa.sql.room`: rows have the columns of `TOLD` as well, the last row nothing
    but these.

    A limit is one `Filter`, made once. The global limit has a look, which locks and counts; a rate has a look, and
    tells what it has spent; partitions have a pick; all together are one plan of three filters, in that order
    (`oban_sa.sql.limits`), and one statement. Values that differ from fetch to fetch, such as a cursor, are parameters
    that the producer gives (`oban_sa.runner.queue.limits`).
    """

    filters: tuple[Filter, ...] = ()
    followers: tuple[Follower, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict[str, object], compare=False)

    def with_filter(self, *filters: Filter) -> Plan:
        """The same plan with more filters."""
        return replace(self, filters=(*self.filters, *filters))

    def within(self, filters: Sequence[Filter], parameters: Mapping[str, object]) -> Plan:
        """The same plan with the filters of limits, and their parameters."""
        return replace(self, filters=(*self.filters, *filters), parameters={**self.parameters, **parameters})

    def with_follower(self, *followers: Follower) -> Plan:
        """The same plan with more followers."""
        return replace(self, followers=(*self.followers, *followers))

    def fetch(self) -> Executable:
        """Take jobs of one queue: rows of `FETCHED`, at most `demand` of them, in no promised order.

        Only jobs from a position on are taken, and only while the producer has its row. Parameters: `queue`, `demand`,
        `holder` (`[node, producer uuid]`), `producer`, the same uuid, a `Position` as `from_priority`,
        `from_scheduled_at` and `from_id`, and those of the filters.
        """
        if are_limits(self.filters):
            return fetch_within(self.filters)
        taken = take(of_producer(), self.filters)
        return then(select(*(taken.c[name] for name in FETCHED)), taken, self.filters)

    def fetch_any(self, *conditions: ColumnElement[bool]) -> Executable:
        """Take jobs of any queue for which all `conditions` hold, without being a producer: rows of `FETCHED`, `queue`.

        Limits do not hold here. Parameters: `demand`, `holder`, and those of the conditions and the filters.
        """
        columns = (*FETCHED, "queue")
        taken = take((NOT_SPENT, *conditions), self.filters, columns)
        return then(select(*(taken.c[name] for name in columns)), taken, self.filters)

    def ack(self) -> Executable:
        """Write outcomes; see `oban_sa.sql.ack.ack`."""
        return ack(self.followers)

    def ack_one(self) -> Executable:
        """Write one outcome in a session's transaction; see `oban_sa.sql.ack.ack_one`."""
        return ack_one(self.followers)

    def ack_and_fetch(self) -> Executable:
        """Write outcomes and fetch in one round trip and one commit: rows of `FETCHED` and `acked`, one of them filled.

        Both halves see the same snapshot, so a job that this statement makes available is fetched by a later one.
        Parameters: those of `ack` and of `fetch`.
        """
        return self._cycle(write(self.followers))

    def complete_and_fetch(self) -> Executable:
        """The same where every attempt is completed and nothing else is said of it.

        Parameters: those of `oban_sa.sql.ack.write_completed` and of `fetch`.
        """
        return self._cycle(write_completed(self.followers))

    def _cycle(self, acked: CTE) -> Executable:
        if are_limits(self.filters):
            return follow(fetch_within(self.filters, acked), acked, self.followers)
        taken = take(of_producer(), self.filters)
        rows = union_all(
            select(*(taken.c[name] for name in FETCHED), cast(null(), BigInteger).label("acked")),
            select(*(null().label(name) for name in FETCHED), acked.c.id),
        )
        return follow(then(select(rows.subquery("cycle")), taken, self.filters), acked, self.followers)
