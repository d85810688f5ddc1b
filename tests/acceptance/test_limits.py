"""No limit is ever exceeded, while nodes are killed and stopped, and their clocks are hours apart.

`OBAN_TEST_LIMITS` is how many seconds it takes; few by default, so that every run can afford them.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, count

import asyncpg
import pytest

from oban_sa.jobs.limits import Rate
from tests.acceptance.limited_node import DEAD_AFTER
from tests.acceptance.limits_node import EACH, KEYS, QUEUES, RATE_OF_EACH
from tests.support import Process, eventually, forked, plain_url

SECONDS = float(os.environ.get("OBAN_TEST_LIMITS", "6"))

WATCH = """
CREATE TABLE starts (queue text, key text, job_id bigint, attempt int, at timestamp, points int);
CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO starts
    VALUES (NEW.queue, NEW.meta->>'partition', NEW.id, NEW.attempt, NEW.attempted_at, (NEW.args->>'points')::int);
    RETURN NULL;
END $$;
CREATE TRIGGER note_start AFTER UPDATE ON oban_jobs FOR EACH ROW
WHEN (NEW.state = 'executing' AND OLD.state = 'available') EXECUTE FUNCTION note_start();

CREATE TABLE overruns (at timestamptz, queue text, executing int);
CREATE FUNCTION note_overrun() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO overruns
    SELECT clock_timestamp(), queue, count(*) FROM oban_jobs WHERE state = 'executing' GROUP BY queue
    HAVING count(*) > CASE queue {limits} END;
    INSERT INTO overruns
    SELECT clock_timestamp(), meta->>'partition', count(*) FROM oban_jobs WHERE state = 'executing' AND queue = 'keyed'
    GROUP BY meta->>'partition' HAVING count(*) > {each};
    RETURN NULL;
END $$;
CREATE TRIGGER note_overrun AFTER UPDATE ON oban_jobs FOR EACH STATEMENT EXECUTE FUNCTION note_overrun();
"""
"""Notes each start, and at the end of each statement, before its locks are gone, whether too many jobs execute."""

ENQUEUE_LONG = """
INSERT INTO oban_jobs (queue, worker, priority, args, meta)
SELECT queue, 'tests.acceptance.limits_node.long', n % 3, '{"points": 1}',
       jsonb_build_object('partition', 'key' || n % {keys})
FROM unnest($1::text[]) AS queue, generate_series(1, 1000) AS n
""".replace("{keys}", str(KEYS))

ENQUEUE = """
INSERT INTO oban_jobs (queue, worker, priority, max_attempts, args, meta)
SELECT queue, 'tests.acceptance.limits_node.' || (ARRAY['plain', 'in_a_session', 'fails', 'plain'])[1 + n % 4],
       n % 3, 3, jsonb_build_object('points', n % 7), jsonb_build_object('partition', 'key' || n % {keys})
FROM unnest($1::text[]) AS queue, generate_series(1, $2::int) AS n
""".replace("{keys}", str(KEYS))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(plain_url(database_url))
    limited = {queue: limits.global_limit for queue, limits in QUEUES.items() if limits.global_limit is not None}
    await made.execute(
        WATCH.format(limits=" ".join(f"WHEN '{queue}' THEN {n}" for queue, n in limited.items()), each=EACH)
    )
    yield made
    await made.close()


class Nodes:
    """Four nodes; one that is killed is replaced at once, one that is stopped goes on after it was taken for dead."""

    def __init__(self, url: str, stack: ExitStack, chance: random.Random) -> None:
        self._url = url
        self._stack = stack
        self._chance = chance
        self._numbers = count()
        self.living: dict[str, Process] = {}
        self.stopped: list[tuple[float, str, Process]] = []
        self.done: Counter[str] = Counter()

    def fill(self) -> None:
        while len(self.living) < 4:
            number = next(self._numbers)
            hours = (number % 4 - 1.5) / 1.5  # an hour behind, and an hour ahead
            words = ["-m", "tests.acceptance.limits_node", self._url, f"node{number}", str(hours)]
            self.living[f"node{number}"] = self._stack.enter_context(forked(words))

    def harm(self) -> None:
        working = [name for name, each in self.living.items() if "working" in each.stdout]
        if len(working) < 2:
            return
        name = self._chance.choice(working)
        one = self.living.pop(name)
        what = self._chance.choice(["killed", "killed", "stopped", "told to end"])
        self.done[what] += 1
        if what == "killed":
            one.kill()
        elif what == "told to end":
            one.terminate()
        else:
            one.send(signal.SIGSTOP)
            self.stopped.append((time.monotonic() + self._chance.random() * 2 * DEAD_AFTER, name, one))

    def wake(self) -> None:
        for each in list(self.stopped):
            at, name, one = each
            if time.monotonic() > at:
                self.stopped.remove(each)
                one.send(signal.SIGCONT)
                self.living[name] = one

    def end_stopped(self) -> None:
        for _, _, one in self.stopped:
            one.kill()
        self.stopped.clear()

    def all_work(self) -> bool:
        return all("working" in each.stdout for each in self.living.values())

    def kill_two(self) -> list[str]:
        lost = list(self.living)[:2]
        for name in lost:
            self.living.pop(name).kill()
        return lost


@pytest.mark.chaos
async def test_no_limit_is_exceeded_whatever_becomes_of_nodes(
    database_url: str, connection: asyncpg.Connection
) -> None:
    chance = random.Random(15)
    most: Counter[str] = Counter()
    with ExitStack() as stack:
        nodes = Nodes(database_url, stack, chance)
        nodes.fill()
        await eventually(nodes.all_work, 30)
        ends_at = time.monotonic() + SECONDS
        harm_at = time.monotonic() + 0.5
        while time.monotonic() < ends_at:
            most |= await running(connection)
            if await waiting(connection) < 400:
                await connection.execute(ENQUEUE, list(QUEUES), 200)
            nodes.wake()
            if time.monotonic() > harm_at:
                harm_at = time.monotonic() + chance.random() * 1.5
                nodes.harm()
                nodes.fill()
            await asyncio.sleep(0.02)
        # Jobs that only the living end, and then two nodes die that have some.
        await connection.execute("DELETE FROM oban_jobs WHERE state = 'available'")
        await connection.execute(ENQUEUE_LONG, list(QUEUES))
        nodes.end_stopped()
        nodes.fill()
        await eventually(nodes.all_work, 30)
        await eventually(lambda: are_full(connection), 30)
        await eventually(lambda: keys_are_full(connection), 30)
        lost = nodes.kill_two()
        died_at = time.monotonic()
        await eventually(lambda: have_come_back(connection, lost), DEAD_AFTER + 5)
        came_back_after = time.monotonic() - died_at
    print(f"{dict(nodes.done)}, most at once {dict(most)}; slots came back after {came_back_after:.1f} s")
    assert await connection.fetch("SELECT * FROM overruns") == []
    for queue, limits in QUEUES.items():
        assert limits.global_limit in (None, most[queue])
        if isinstance(limits.rate, Rate) and limits.by is None:
            rows = await connection.fetch("SELECT at, points FROM starts WHERE queue = $1 ORDER BY at", queue)
            # With a global limit the slots of the dead may keep it far below.
            fullest = check(rows, limits.rate)
            assert limits.global_limit is not None or fullest > limits.rate.n * 3 // 4
    statement = "SELECT at, points FROM starts WHERE queue = 'keyed' AND key = $1 ORDER BY at"
    of_keys = [check(await connection.fetch(statement, f"key{n}"), RATE_OF_EACH) for n in range(KEYS)]
    assert max(of_keys) >= EACH
    assert await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


def check(rows: Sequence[asyncpg.Record], rate: Rate) -> int:
    """No window of the period, by the database's clock, has more starts than the rate; return those of the fullest."""
    at = [row["at"].timestamp() for row in rows]
    weights = [max(row["points"], 1) if rate.weight else 1 for row in rows]
    sums = [0, *accumulate(weights)]
    windows = [sums[bisect_right(at, start + rate.span)] - sums[n] for n, start in enumerate(at)]
    print(f"{len(at)} starts, {max(windows)} of {rate.n} in the fullest window")
    assert max(windows) <= rate.n
    return max(windows)


async def running(connection: asyncpg.Connection) -> Counter[str]:
    rows = await connection.fetch("SELECT queue, count(*) FROM oban_jobs WHERE state = 'executing' GROUP BY queue")
    return Counter(dict(map(tuple, rows)))


async def waiting(connection: asyncpg.Connection) -> int:
    statement = "SELECT count(*) FROM oban_jobs WHERE state = 'available' AND queue = 'limited'"
    return int(await connection.fetchval(statement))


async def are_full(connection: asyncpg.Connection) -> None:
    found = await running(connection)
    full = {queue: limits.global_limit for queue, limits in QUEUES.items() if limits.global_limit is not None}
    assert {queue: found[queue] for queue in full} == full


async def keys_are_full(connection: asyncpg.Connection) -> None:
    statement = (
        "SELECT count(*) FROM oban_jobs WHERE state = 'executing' AND queue = 'keyed' GROUP BY meta->>'partition'"
    )
    assert [row[0] for row in await connection.fetch(statement)] == [EACH] * KEYS


async def have_come_back(connection: asyncpg.Connection, lost: list[str]) -> None:
    """The limit is full again, and of none that died."""
    statement = "SELECT count(*) FROM oban_jobs WHERE state = 'executing' AND attempted_by[1] = ANY($1::text[])"
    assert await connection.fetchval(statement, lost) == 0
    await are_full(connection)
