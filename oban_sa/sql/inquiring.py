"""Ask what became of a transaction whose COMMIT was never answered, and of an attempt."""

from __future__ import annotations

from sqlalchemy import BigInteger, DateTime, Executable, Exists, Integer, bindparam, exists, func, select

from oban_sa.sql.acking import still_held


def inquiring() -> Executable:
    """`status` of the transaction `xid`, and whether the attempt is `held` by its holder as before.

    The status is `committed`, `aborted`, `in progress`, or null where the transaction is too long ago. A server that
    crashed may use a number again, but then the attempt is still held. Parameters: `xid`, `job_id`,
    `attempt`, `attempted_at` and `holder`.
    """
    return select(
        func.txid_status(bindparam("xid", type_=BigInteger())).label("status"),
        _held().label("held"),
    )


def inquiring_held() -> Executable:
    """Whether the attempt is still held by its holder. Parameters: `job_id`, `attempt`, `attempted_at` and `holder`."""
    return select(_held())


def _held() -> Exists:
    said = (
        bindparam("job_id", type_=BigInteger()),
        bindparam("attempt", type_=Integer()),
        bindparam("attempted_at", type_=DateTime(timezone=True)),
    )
    return exists().where(still_held(*said))
