"""What was fetched without hearing so is given back by a statement of its own, which may come late."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, cast, func, update

from oban_sa.runner.producer import Producer
from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline

PROMISES = ("P5",)
KIND = "connections"


def _reclaiming() -> Any:
    holder = cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))
    known = cast(bindparam("known", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    unknown = jobs.c.id != func.all(known)
    mine = (jobs.c.state == inline("'executing'"), jobs.c.attempted_by == holder, unknown)
    given_back = {"state": inline("'available'"), "attempt": jobs.c.attempt - inline("1")}
    return update(jobs).where(*mine).values(given_back).returning(jobs.c.id)


async def _give_back_unheard(self: Producer) -> int:
    tables = self._tables
    reclaiming = self._database.prepare(_reclaiming())
    known = [*self.running, *self._acker.ids()]
    rows = await tables._line.fetch(reclaiming, holder=self._holder, known=known)
    self._uncertain = False
    self._hungry = self._hungry or bool(rows)
    return 0


Producer._give_back_unheard = _give_back_unheard  # type: ignore[method-assign]
