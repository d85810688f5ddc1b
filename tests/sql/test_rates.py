"""The function that keeps rates, told the time: what it leaves, what it spends, and when there is more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support import plain_url

T0 = datetime(2026, 3, 1, 12, 0, 0)
"""Some moment, in UTC."""


@dataclass
class Limiter:
    """One rate."""

    connection: psycopg.Connection
    n: int = 10
    per: float = 60.0
    algorithm: str = "sliding"
    burst: int | None = None
    name: str = "rate"

    def call(self, spends: int | None, wants: int | None, after: float) -> float | None:
        at = T0 + timedelta(seconds=after)
        given = (self.name, "", self.n, self.per, self.algorithm, self.burst, spends, wants, at)
        found = self.connection.execute(
            "SELECT oban_sa_rate(%s, %s, %s, %s, %s, %s, %s::bigint, %s, %s::timestamp)", given
        ).fetchone()
        assert found is not None
        answer: float | None = found[0]
        return answer

    def left(self, after: float) -> int:
        left = self.call(None, None, after)
        assert left is not None
        return int(left)

    def spend(self, count: int, after: float, wants: int = 1) -> float | None:
        return self.call(count, wants, after)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain_url(database_url), autocommit=True) as made:
        yield made


def test_what_is_left_is_what_was_not_spent_in_the_period_before(connection: psycopg.Connection) -> None:
    rate = Limiter(connection)
    assert rate.left(0) == 10
    assert rate.spend(4, 0) is None
    assert rate.spend(5, 30) is None
    assert rate.left(30) == 1
    assert rate.spend(1, 30) == pytest.approx(31)
    # The slice of 0 s reaches into the period before 60 s, and counts whole; after that it does not.
    assert (rate.left(60.9), rate.left(61), rate.left(90.9), rate.left(91)) == (0, 4, 4, 10)


def test_a_rate_tells_when_as_many_as_are_wanted_are_left(connection: psycopg.Connection) -> None:
    rate = Limiter(connection)
    rate.spend(3, 0)
    rate.spend(3, 10)
    assert rate.spend(4, 20, wants=1) == pytest.approx(41)
    assert rate.spend(0, 20, wants=3) == pytest.approx(41)
    assert rate.spend(0, 20, wants=4) == pytest.approx(51)
    assert rate.spend(0, 20, wants=10) == pytest.approx(61)
    assert rate.spend(0, 20, wants=99) == pytest.approx(61)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "per"), [(7, 1.0), (20, 0.7), (3, 3600.0)])
def test_no_window_of_the_period_has_more_than_the_rate(
    connection: psycopg.Connection, n: int, per: float, seed: int
) -> None:
    chance = random.Random(f"{n} {per} {seed}")
    rate = Limiter(connection, n=n, per=per)
    starts: list[float] = []
    now, idle = 0.0, 0
    with connection.transaction():
        for _ in range(150):
            left = rate.left(now)
            count = chance.randint(0, left) if chance.random() < 0.5 else left
            waits = rate.spend(count, now)
            starts += [now] * count
            idle += left == 0
            assert (waits is None) == (left > count)
            now += waits if waits is not None and chance.random() < 0.5 else chance.expovariate(10 / per)
    assert idle
    for start in starts:
        assert sum(start <= each <= start + per for each in starts) <= n
    # Hardly less: a 60th of the period is lost at most.
    assert len(starts) >= n * (starts[-1] / (per * 62 / 60)) * 0.5


def test_a_fixed_rate_begins_anew_with_each_period(connection: psycopg.Connection) -> None:
    rate = Limiter(connection, algorithm="fixed")
    assert rate.spend(10, 59) == pytest.approx(1)
    assert (rate.left(59.9), rate.left(60)) == (0, 10)
    assert rate.spend(10, 60) == pytest.approx(60)


def test_a_bucket_fills_evenly_and_holds_its_burst(connection: psycopg.Connection) -> None:
    rate = Limiter(connection, algorithm="bucket", burst=5)  # one every 6 s
    assert rate.left(0) == 5
    assert rate.spend(5, 0) == pytest.approx(6, abs=1e-3)
    assert (rate.left(5.9), rate.left(6.1), rate.left(12.1), rate.left(1000)) == (0, 1, 2, 5)
    assert rate.spend(0, 0, wants=3) == pytest.approx(18, abs=1e-3)
    assert rate.spend(0, 0, wants=99) == pytest.approx(30, abs=1e-3)


def test_a_bucket_never_gives_more_than_its_burst_and_what_has_flowed_in(connection: psycopg.Connection) -> None:
    chance = random.Random(5)
    rate = Limiter(connection, n=7, per=1, algorithm="bucket", burst=3)
    starts: list[float] = []
    now = 0.0
    with connection.transaction():
        for _ in range(200):
            count = rate.left(now)
            waits = rate.spend(count, now)
            starts += [now] * count
            now += waits if waits is not None and chance.random() < 0.7 else chance.expovariate(7)
    for place, start in enumerate(starts):
        for other, end in enumerate(starts[place:]):
            assert other + 1 <= 3 + (end - start) * 7 + 1e-3
    assert len(starts) > 7 * starts[-1] * 0.7


def test_a_new_number_holds_at_once(connection: psycopg.Connection) -> None:
    rate = Limiter(connection)
    rate.spend(6, 0)
    rate.n = 8
    assert rate.left(1) == 2
    rate.n = 4
    assert rate.left(1) == 0
    assert rate.spend(0, 1) == pytest.approx(60)
    rate.n = 100
    assert rate.left(1) == 94


@pytest.mark.parametrize("after", ["fixed", "bucket", "sliding"])
@pytest.mark.parametrize("before", ["fixed", "bucket", "sliding"])
def test_a_rate_that_becomes_another_one_keeps_what_was_spent(
    connection: psycopg.Connection, before: str, after: str
) -> None:
    rate = Limiter(connection, algorithm=before)
    rate.spend(6, 0)
    rate.algorithm, rate.per = after, 120.0
    left = rate.left(1)
    assert 4 <= left <= (7 if "bucket" in (before, after) else 4)
    rate.spend(1, 1)
    assert rate.left(2) == left - 1
    # Nothing is remembered for longer than the new period.
    assert rate.left(124) == 10


def test_a_clock_that_is_set_back_does_not_stop_a_rate(connection: psycopg.Connection) -> None:
    rate = Limiter(connection)
    rate.spend(4, 3600)
    assert rate.left(3598) == 6
    assert rate.left(0) == 6
    rate.spend(6, 0)
    assert rate.left(0) == 0
    assert rate.left(62) == 10


@pytest.mark.parametrize("algorithm", ["sliding", "fixed"])
def test_what_is_given_back_is_left_again(connection: psycopg.Connection, algorithm: str) -> None:
    rate = Limiter(connection, algorithm=algorithm)
    rate.spend(10, 0)
    assert rate.left(0) == 0
    rate.spend(-3, 0)
    assert rate.left(0) == 3
    rate.spend(3, 0)
    # More than was spent then can't be given back, nor what is no longer known.
    rate.spend(-99, 0)
    assert rate.left(0) == 10
    rate.spend(10, 70)
    rate.spend(-3, 0)
    assert rate.left(70) == 0
    # A rate that has become another one gives nothing back, also where the numbers of its slices are the same.
    connection.execute("UPDATE oban_sa_rates SET width = 7")
    rate.spend(-3, 70)
    assert connection.execute("SELECT sum(each) FROM oban_sa_rates, unnest(counts) AS each").fetchone() == (10,)


def test_what_is_given_back_is_taken_from_when_it_was_spent(connection: psycopg.Connection) -> None:
    rate = Limiter(connection)
    rate.spend(4, 0)
    rate.spend(4, 30)
    rate.spend(-3, 0)
    assert (rate.left(40), rate.left(61), rate.left(91)) == (5, 6, 10)


def test_a_bucket_gets_back_only_what_it_surely_lacks(connection: psycopg.Connection) -> None:
    [now] = connection.execute("SELECT timezone('UTC', clock_timestamp())").fetchone() or [None]
    after = (now - T0).total_seconds()
    rate = Limiter(connection, n=10, per=3600, algorithm="bucket")
    rate.spend(5, after)
    rate.spend(-2, after)
    assert rate.left(after) == 7
    rate.spend(-1, after - 400)  # when it was spent is longer ago than it takes to come back
    assert rate.left(after) == 7


def test_a_rate_needs_to_see_what_others_commit(connection: psycopg.Connection) -> None:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with (
        pytest.raises(psycopg.errors.InvalidTransactionState, match=r"hold in READ COMMITTED, .* REPEATABLE READ"),
        connection.transaction(),
    ):
        Limiter(connection).left(0)
    with (
        pytest.raises(psycopg.errors.InvalidTransactionState, match="hold in READ COMMITTED"),
        connection.transaction(),
    ):
        connection.execute("SELECT oban_sa_free('default', 5)")


def test_the_moment_of_an_aware_clock_is_utc(connection: psycopg.Connection) -> None:
    """Whatever the session's time zone is."""
    connection.execute("SET TIME ZONE 'Asia/Tokyo'")
    connection.execute("SELECT oban_sa_rate('now', '', 5, 60, 'fixed', NULL, 5, 1, NULL)")
    [full_at] = connection.execute("SELECT full_at FROM oban_sa_rates WHERE name = 'now'").fetchone() or [None]
    assert timedelta(0) <= full_at.replace(tzinfo=UTC) - datetime.now(UTC) <= timedelta(minutes=1)
