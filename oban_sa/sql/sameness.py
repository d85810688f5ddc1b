"""Find out if two connections lead to the same database, whatever their URLs say."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, bindparam, func, select


def marking() -> Executable:
    """Whether nobody else had `key` marked in this database; it's marked until the transaction ends."""
    return select(func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger())))
