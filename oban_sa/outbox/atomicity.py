"""Whether a session's jobs are committed together with its data: they are where both are written on one connection.

A session whose binds lead to several engines has a connection for each, and commits one after the other. Reading
elsewhere, from a replica for instance, does no harm; so what counts is which connections have written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, TwoPhaseTransaction, text
from sqlalchemy.orm import Session

from oban_sa.errors import JobElsewhere

ELSEWHERE: Final = "oban_elsewhere"
"""True under this name in a session's `info` lets jobs be committed apart from the session's data."""

# Assigned by the first statement that writes or locks a row. Known on replicas too, and since PostgreSQL 10.
_WROTE: Final = text("SELECT txid_current_if_assigned() IS NOT NULL")


class Homes:
    """The connections on which one session writes jobs."""

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        # Weak: a session that lives long keeps no connection of a transaction that has ended.
        self._connections: WeakSet[Connection] = WeakSet()

    def add(self, connection: Connection) -> None:
        """Add a connection that jobs are written on."""
        self._connections.add(connection)

    def check(self, session: Session) -> None:
        """Raise `JobElsewhere` where the session's transaction has also written on a connection without jobs.

        Sends nothing where the transaction has a single connection. One to a database that can't say whether it has
        written counts as one that has.
        """
        if not self._connections:
            return
        taking_part = set(_taking_part(session))
        if len(taking_part) < 2 or session.info.get(ELSEWHERE) is True:
            return
        homes = taking_part & set(self._connections)  # others are of transactions that have ended
        others = taking_part - homes
        if not homes or not others:
            return
        home = next(iter(homes))
        for other in others:
            if not _prepared(home, other) and _wrote(other):
                raise JobElsewhere(_words(home, other))


def _taking_part(session: Session) -> Iterator[Connection]:
    # There is no public way to ask: `Session.connection` would make those that it doesn't find. Each is there under
    # its engine too.
    root: Any = session.get_transaction()
    for bind, (connection, *_) in getattr(root, "_connections", {}).items():
        if isinstance(bind, Connection):
            yield connection


def _prepared(*connections: Connection) -> bool:
    """Whether they commit in two phases, of which the first settles it for all of them."""
    return all(isinstance(each.get_transaction(), TwoPhaseTransaction) for each in connections)


def _wrote(connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.execute(_WROTE).scalar_one())


def _words(home: Connection, other: Connection) -> str:
    jobs, data = home.engine.url, other.engine.url
    if jobs == data:
        where = f"on two connections to {data!r}, since an engine with other execution_options is another engine"
    else:
        where = f"in different databases, {jobs!r} and {data!r}"
    return (
        f"this session writes its jobs and its data {where}: each commits by itself, so that either could be lost "
        "without the other. Bind Job to the engine that the data is written with, as in binds={Base: engine, "
        "Job: engine}; or enqueue in another session, after this one has committed; or give twophase=True. Where a "
        f'job may be lost, or come without its data, say so: session.info["{ELSEWHERE}"] = True'
    )
