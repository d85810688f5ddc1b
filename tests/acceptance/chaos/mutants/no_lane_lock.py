"""Several nodes book the notes of one lane at once."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, bindparam, select

from oban_sa.runner.maintenance import settler

PROMISES = ("booked", "callbacks", "order", "P2")
KIND = "flows"


def _always() -> Executable:
    return select(bindparam("key", type_=BigInteger()).is_not(None))


settler.try_lock = _always
