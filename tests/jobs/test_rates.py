"""What a rate has left, told from its row: the same that the function in the database decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from oban_sa.jobs.limits import Rate
from oban_sa.jobs.rates import Kept, left, weight
from tests.support import plain_url

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEPT = "SELECT width, newest, counts, extract(epoch FROM full_at)::float8 FROM oban_sa_rates"
SPEND = "SELECT oban_sa_rate('r', '', %s, %s, %s, %s, %s::bigint, %s, %s::timestamp)"

RATES = [
    Rate(10, per=60),
    Rate(7, per=0.5),
    Rate(10, per=60, algorithm="fixed"),
    Rate(10, per=60, algorithm="bucket"),
    Rate(10, per=60, algorithm="bucket", burst=3),
]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain_url(database_url), autocommit=True) as made:
        yield made


def decided(connection: psycopg.Connection, rate: Rate, at: datetime, spends: int | None, wants: int | None) -> Any:
    given = (rate.n, rate.span, rate.algorithm, rate.burst, spends, wants, at.replace(tzinfo=None))
    found = connection.execute(SPEND, given).fetchone()
    assert found is not None
    return found[0]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_told_is_what_the_database_decides(connection: psycopg.Connection, seed: int) -> None:
    chance = random.Random(seed)
    at, rate = T0, chance.choice(RATES)
    waited = 0
    for step in range(150):
        at += timedelta(microseconds=chance.randrange(int(rate.span * 300_000)))
        if step % 30 == 29:  # the rate is decided anew, and what was spent lately counts
            rate = chance.choice(RATES)
        row = connection.execute(KEPT).fetchone()
        kept = Kept(*row) if row is not None else Kept()
        wants = chance.randint(1, 4)
        number, until = left(rate, kept, now=at.timestamp(), wants=wants)
        assert number == decided(connection, rate, at, None, None), (rate, kept, at)
        after = decided(connection, rate, at, 0, wants)
        if after is None:
            assert until is None, (rate, kept, at)
        else:
            assert until is not None
            assert until == pytest.approx(at.timestamp() + after, abs=1e-4)
            waited += 1
        decided(connection, rate, at, chance.randint(0, number), 1)
    assert waited > 10


@pytest.mark.parametrize(
    ("args", "weighs"),
    [
        ({"points": 3}, 3),
        ({"points": 3.0}, 3),
        ({"points": 99}, 10),
        ({"points": 0}, 1),
        ({"points": -2}, 1),
        ({"points": 2.5}, 1),
        ({"points": True}, 1),
        ({"points": "3"}, 1),
        ({}, 1),
        ({"points": None}, 1),
        ([], 1),
    ],
)
def test_a_job_weighs_the_whole_number_that_it_says(args: object, weighs: int) -> None:
    assert weight(Rate(10, per=1, weight="args.points"), args, {}) == weighs
    assert weight(Rate(10, per=1, weight="meta.points"), {}, args) == weighs
    assert weight(Rate(10, per=1), args, {}) == 1
