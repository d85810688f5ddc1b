"""What `Oban` does with sequences: which ones a discarded job has halted, and let them go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from oban_sa.client.queues import queue_named
from oban_sa.client.transactions import Transactions, Work
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs.keys import SEQUENCE, key_text
from oban_sa.outbox.sessions import AnySession
from oban_sa.sql.halts import halted, resume
from oban_sa.sql.notify import announce
from oban_sa.sql.planner import plainly


@dataclass(frozen=True, slots=True)
class HaltedSequence:
    """A sequence whose jobs wait, because its job `job_id` was discarded; `waiting` is how many, up to a bound."""

    queue: str
    key: str
    job_id: int
    worker: str
    discarded_at: datetime | None
    waiting: int


class SequenceControl:
    """Methods on sequences of workers with `on_failure="halt"`."""

    _transactions: Transactions

    async def list_halted_sequences(
        self, *, limit: int | None = None, exactly_to: int = 10_000
    ) -> list[HaltedSequence]:
        """Return the sequences that are halted, in the order in which that happened; the first `limit` of them.

        At most `exactly_to` jobs that wait in each are counted.
        """

        def work(work: Work) -> list[HaltedSequence]:
            work.execute(plainly())
            rows = work.execute(halted(), {"limit": limit, "counted": exactly_to}).all()
            return [
                HaltedSequence(row.queue, row.key, row.id, row.worker, row.discarded_at, row.waiting) for row in rows
            ]

        return await self._transactions.run(work)

    async def resume_sequence(self, queue: str, key: object, *, session: AnySession | None = None) -> list[int]:
        """Let the jobs of a halted sequence go on without the discarded one; return the ids of those that halted it.

            await oban.resume_sequence("ledger", 17)

        `key` is what the job says where its worker has the key, or a tuple of that; the list is empty where the
        sequence was not halted. To have the discarded job done after all, before the others, retry it instead. Raises
        `InvalidOption` for what can't be a key.
        """
        name, text = queue_named(queue), _key(key)

        def work(work: Work) -> list[int]:
            ids = list(work.execute(resume(), {"of_queue": name, "key": text}).scalars())
            work.refresh(ids)
            if ids and work.channel("insert") is not None:
                work.execute(announce([name], work.schema))
            return ids

        return await self._transactions.run(work, session)


def _key(key: object) -> str:
    try:
        text = key_text(key, what=SEQUENCE)
    except InvalidJob as error:
        raise InvalidOption(str(error)) from None
    if text is None:
        raise InvalidOption("None is the key of no sequence")
    return text
