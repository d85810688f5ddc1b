from __future__ import annotations

from datetime import UTC, datetime, timedelta

from oban_sa.schedule import clock


def test_now_is_aware_and_in_utc():
    moment = clock.now()
    assert moment.tzinfo is UTC
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_monotonic_clock_never_goes_back():
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)
