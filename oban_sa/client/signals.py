"""What `Oban` does with signals: send them."""

from __future__ import annotations

from oban_sa.client.transactions import Transactions, Work
from oban_sa.jobs import values
from oban_sa.jobs.durable import checked_name
from oban_sa.models import Job
from oban_sa.outbox.sessions import AnySession
from oban_sa.outbox.signal import NAMED, checked_payload, job_id, refuse
from oban_sa.sql.signals import send
from oban_sa.wire import messages


class SignalControl:
    """The method that sends a signal to a job."""

    _transactions: Transactions

    async def signal(
        self, job: int | Job, name: str, payload: object = None, *, session: AnySession | None = None
    ) -> None:
        """Send a signal to a job, in a transaction of its own or in that of `session`.

        A `wait_for` of the same name returns it, whether the job waits already or comes to that line later. Raises
        `JobOver` where the job has ended, `JobNotFound` where there is none, and `InvalidArguments` for a payload that
        is no JSON.
        """
        identity = job_id(job)
        given: dict[str, object] = {
            "job_id": identity,
            "name": checked_name(name, *NAMED),
            "payload": values.dumps(checked_payload(payload)),
        }

        def work(work: Work) -> None:
            channel = work.channel(messages.NODES, always=True)
            told = {"channel": channel or "", "announcing": channel is not None}
            refuse(identity, work.execute(send(work.schema), {**given, **told}).mappings().one()["state"])

        await self._transactions.run(work, session)
