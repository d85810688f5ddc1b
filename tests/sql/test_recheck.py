"""A job that others change while a command waits for its row is left alone once it is not meant any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, column, exists, func, literal_column, or_, select, text, union
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased
from sqlalchemy.sql.selectable import SelectBase

from oban_sa.client import Oban
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.sql.recheck import condition_of
from tests.clients import stored
from tests.support import eventually, plain_url

other = aliased(Job)
DISCARDED = Job.state == JobState.DISCARDED


def distinct_on(query: Any) -> Any:
    try:
        from sqlalchemy.dialects.postgresql import distinct_on as extension
    except ImportError:  # SQLAlchemy 2.0
        return query.distinct(Job.id).order_by(Job.id).limit(10)
    return query.ext(extension(Job.id)).order_by(Job.id).limit(10)


CHOICES: dict[str, Callable[[], Any]] = {
    "condition": lambda: DISCARDED,
    "whole": lambda: select(Job).where(DISCARDED),
    "ids": lambda: select(Job.id).where(DISCARDED, Job.queue == "default").order_by(Job.id.desc()),
    "table": lambda: select(Job.__table__).where(Job.__table__.c.state == "discarded"),
    "either": lambda: or_(DISCARDED, Job.args["none"].astext == "x"),
    "text": lambda: select(Job).where(text("state = 'discarded'")),
    "literal": lambda: select(Job).where(literal_column("state::text") == "discarded"),
    "limit": lambda: select(Job).where(DISCARDED).order_by(Job.id).limit(10),
    "offset": lambda: select(Job).where(DISCARDED).order_by(Job.id).offset(0),
    "random": lambda: select(Job).where(DISCARDED).order_by(func.random()).limit(10),
    "fetch": lambda: select(Job).where(DISCARDED).order_by(Job.id).fetch(10),
    "alias": lambda: select(other).where(other.state == "discarded"),
    "join": lambda: select(Job).join(other, other.id == Job.id).where(DISCARDED),
    "joined": lambda: select(Job).join(other, other.id == Job.id).where(other.state == "discarded"),
    "outer": lambda: select(Job).outerjoin(other, other.id == Job.id).where(other.state == "discarded"),
    "in": lambda: Job.id.in_(select(other.id).where(other.state == "discarded")),
    "exists": lambda: exists().where(other.id == Job.id, other.state == "discarded"),
    "cte": lambda: select(Job).join(cte := select(Job.id).where(DISCARDED).cte("found"), cte.c.id == Job.id),
    "subquery": lambda: select(found := select(Job).where(DISCARDED).limit(5).subquery()).where(found.c.id > 0),
    "union": lambda: union(select(Job).where(DISCARDED), select(Job).where(DISCARDED, Job.priority == 9)),
    "distinct": lambda: select(Job).where(DISCARDED).distinct(),
    "distinct-on": lambda: distinct_on(select(Job).where(DISCARDED)),
    "grouped": lambda: select(Job.id).where(DISCARDED).group_by(Job.id).having(func.count() > 0),
    "locked": lambda: select(Job).where(DISCARDED).with_for_update(key_share=True),
}

COMMANDS: dict[str, Callable[[Oban, Any], Awaitable[int]]] = {
    "delete": lambda oban, which: oban.delete_jobs(which),
    "retry": lambda oban, which: oban.retry_jobs(which),
    "update": lambda oban, which: oban.update_jobs(which, changes={"priority": 7}),
}


async def while_it_waits(url: str, change: str, command: Callable[[], Awaitable[Any]]) -> Any:
    """Lock rows with `change`, start the command, and commit once it waits for them."""
    connection = await asyncpg.connect(plain_url(url))
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(change)
        running = asyncio.ensure_future(command())

        async def waits() -> bool:
            assert not running.done()
            pid = connection.get_server_pid()
            return await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid)))", pid
            )

        try:
            await eventually(waits)
        finally:
            await transaction.commit()
        return await running
    finally:
        await connection.close()


async def rows(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    async with AsyncSession(engine) as session:
        found = await session.execute(select(Job.queue, Job.state, Job.priority).order_by(Job.id))
        return [tuple(row) for row in found]


@pytest.mark.parametrize("choice", CHOICES)
async def test_a_job_made_available_meanwhile_is_not_deleted(
    driven: AsyncEngine, database_url: str, choice: str
) -> None:
    await stored(driven, *(Job("w", state=JobState.DISCARDED) for _ in range(3)))
    which = CHOICES[choice]()
    count = await while_it_waits(
        database_url,
        "UPDATE oban_jobs SET state = 'available' WHERE id = 2",
        lambda: Oban(driven).delete_jobs(which),
    )
    assert count == 2
    assert await rows(driven) == [("default", "available", 0)]


@pytest.mark.parametrize("choice", ["condition", "limit", "joined", "in"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_leaves_a_job_alone_that_is_not_meant_any_more(
    driven: AsyncEngine, database_url: str, command: str, choice: str
) -> None:
    await stored(driven, *(Job("w", state=JobState.DISCARDED) for _ in range(2)))
    count = await while_it_waits(
        database_url,
        "UPDATE oban_jobs SET state = 'completed' WHERE id = 1",
        lambda: COMMANDS[command](Oban(driven), CHOICES[choice]()),
    )
    assert count == 1
    assert (await rows(driven))[0] == ("default", "completed", 0)


@pytest.mark.parametrize(
    "choice", [Job.queue == "a", select(Job).where(Job.queue == "a").limit(5)], ids=["plain", "limit"]
)
async def test_a_job_moved_to_another_queue_meanwhile_is_not_cancelled(
    driven: AsyncEngine, database_url: str, choice: Any
) -> None:
    await stored(driven, Job("w", queue="a"), Job("w", queue="a"))
    count = await while_it_waits(
        database_url, "UPDATE oban_jobs SET queue = 'b' WHERE id = 1", lambda: Oban(driven).cancel_jobs(choice)
    )
    assert count == 1
    assert await rows(driven) == [("b", "available", 0), ("a", "cancelled", 0)]


async def test_a_limit_is_never_exceeded_by_jobs_that_came_into_view(driven: AsyncEngine, database_url: str) -> None:
    await stored(driven, *(Job("w", state=JobState.DISCARDED) for _ in range(4)))
    count = await while_it_waits(
        database_url,
        "UPDATE oban_jobs SET state = 'available' WHERE id = 1",
        lambda: Oban(driven).delete_jobs(select(Job).where(DISCARDED).order_by(Job.id).limit(2)),
    )
    assert count == 1
    assert [state for _, state, _ in await rows(driven)] == ["available", "discarded", "discarded"]


async def test_the_caller_s_session_sees_the_same(driven: AsyncEngine, database_url: str) -> None:
    await stored(driven, *(Job("w", state=JobState.DISCARDED) for _ in range(2)))

    async def command() -> int:
        async with AsyncSession(driven) as session, session.begin():
            held = (await session.scalars(select(Job))).all()
            count = await Oban(driven).update_jobs(CHOICES["joined"](), changes={"priority": 7}, session=session)
            assert [job.priority for job in sorted(held, key=lambda job: job.id)] == [0, 7]
            return count

    assert await while_it_waits(database_url, "UPDATE oban_jobs SET state = 'available' WHERE id = 1", command) == 1


@pytest.mark.parametrize("choice", ["condition", "limit"])
async def test_a_session_on_repeatable_read_is_told_by_postgresql(
    engine: AsyncEngine, database_url: str, choice: str
) -> None:
    await stored(engine, Job("w", state=JobState.DISCARDED))

    async def command() -> None:
        async with AsyncSession(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
            await Oban(engine).delete_jobs(CHOICES[choice](), session=session)

    with pytest.raises(DBAPIError, match="could not serialize access"):
        await while_it_waits(database_url, "UPDATE oban_jobs SET state = 'available' WHERE id = 1", command)
    assert len(await rows(engine)) == 1


async def test_commands_that_want_the_same_jobs_in_other_orders_wait_for_each_other(driven: AsyncEngine) -> None:
    await stored(driven, *(Job("w", state=JobState.DISCARDED) for _ in range(200)))
    oban = Oban(driven)
    orders = (Job.id, Job.id.desc(), func.random(), Job.inserted_at)

    async def update(number: int) -> int:
        async with AsyncSession(driven) as session, session.begin():  # not tried again where it deadlocks
            which = select(Job).where(DISCARDED).order_by(orders[number % 4]).limit(200)
            return await oban.update_jobs(which, changes={"priority": number % 10}, session=session)

    assert await asyncio.gather(*(update(number) for number in range(12))) == [200] * 12


@pytest.mark.parametrize("name", CHOICES)
def test_what_one_statement_can_say_takes_one(name: str) -> None:
    choice = CHOICES[name]()
    query = choice if isinstance(choice, SelectBase) else select(Job).where(choice)
    assert (condition_of(query) is not None) is (name in {"condition", "whole", "ids", "table", "either"})


def test_a_select_of_all_jobs_is_no_condition_more_than_true() -> None:
    assert condition_of(select(Job)) is not None
    assert condition_of(select(Job).where(Job.priority > 0, Job.args["n"].cast(Integer) > 1)) is not None
    assert condition_of(select(Job).where(column("queue") == "a")) is None
    assert condition_of(select(Job).where(text("queue = 'a'"))) is None
