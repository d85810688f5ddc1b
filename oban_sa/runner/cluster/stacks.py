"""The stack of a running job, asked of the node that runs it, over channels that no other Oban listens to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple
from uuid import uuid4

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.errors import InvalidOption
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import connect
from oban_sa.sql.notify import NOTIFY
from oban_sa.wire import messages

logger = logging.getLogger("oban_sa.runner")

SAID: Final = "stack_said"
"""The channel of the answers: `asked`, `node` and `stack`."""

WITHIN: Final = 3.0
"""Seconds in which a node that can answer has answered."""

MOST: Final = 10
"""Questions that are answered at a time; further ones get no answer."""


class Said(NamedTuple):
    """The node that runs a job, and the stack of the job's code there, as text."""

    node: str
    stack: str


class Stacks:
    """Answers questions about the jobs that run here; other messages are ignored.

    A question on `NODES` has `job_id`, and `asked`, a token that the answer repeats.
    """

    def __init__(
        self,
        database: Database,
        find: Callable[[int], Callable[[], Awaitable[str]] | None],
        *,
        source: telemetry.Source,
    ) -> None:
        """`find` takes the id of a job and returns what reads its stack, or None where it does not run here."""
        self._line = database.shared
        self._saying = database.prepare(NOTIFY)
        self._channel = messages.channel(source.schema, SAID)
        self._find = find
        self._source = source
        self._answers: set[asyncio.Task[None]] = set()

    def receive(self, message: dict[str, object]) -> None:
        """Begin to answer a question."""
        job_id, asked = message.get("job_id"), message.get("asked")
        if type(job_id) is not int or not isinstance(asked, str) or len(self._answers) >= MOST:
            return
        stack = self._find(job_id)
        if stack is not None:
            task = asyncio.create_task(self._answer(asked[:100], stack), name="oban_sa stack")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def close(self) -> None:
        """Answer no more."""
        await cancelled(*self._answers)

    async def _answer(self, asked: str, stack: Callable[[], Awaitable[str]]) -> None:
        try:
            text = await stack()
            answer = {"asked": asked, "node": self._source.node, "stack": text}
            try:
                payload = messages.encode(answer)
            except InvalidOption:  # a notification holds no more
                payload = messages.encode({**answer, "stack": f"...\n{text[-4000:]}"})
            await self._line.fetch(self._saying, channel=self._channel, payloads=json.dumps([payload]))
        except Exception as error:
            logger.debug("could not say where the code of a job is: %s", describe(error))


async def where(
    database: Database, job_id: int, *, listen_url: str | None = None, within: float = WITHIN
) -> Said | None:
    """Ask for the stack of a job; None where no node answers within so many seconds."""
    asked = uuid4().hex
    answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        said = messages.decode(payload) if isinstance(payload, str) else None
        if said is not None and said.get("asked") == asked and not answer.done():
            answer.set_result(Said(str(said.get("node")), str(said.get("stack"))))

    connection = await (database.connect() if listen_url is None else connect(listen_url))
    try:
        async with asyncio.timeout(within):
            await connection.add_listener(messages.channel(database.schema, SAID), hear)
            question = messages.encode({"job_id": job_id, "asked": asked})
            await connection.execute(
                "SELECT pg_notify($1, $2)", messages.channel(database.schema, messages.NODES), question
            )
            return await answer
    except TimeoutError:
        return None
    finally:
        connection.terminate()
