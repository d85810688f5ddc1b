"""A row of rates that another program wrote stops no queue: a limit may start anew, and every call answers."""

from __future__ import annotations

from itertools import product

import psycopg
import pytest

from tests.support import plain_url

WIDTHS = ("NaN", "Infinity", "-1", "0", "1", "1e308", "4.9e-324", "60")
NEWEST = (-(2**63), 0, 2**63 - 1)


def slices(each: str) -> str:
    return "{" + ",".join([each] * 61) + "}"


COUNTS = (
    *("{}", "{NULL}", "{5}", "{{1,2},{3,4}}", "[0:60]=" + slices("7")),
    *(slices(each) for each in ("0", "2147483647", "-2147483648", "NULL")),
)
FULL_AT = (None, "infinity", "-infinity", "294276-12-31 23:59:59.999999")


@pytest.mark.parametrize("algorithm", ["sliding", "fixed", "bucket"])
def test_a_strange_row_of_rates_is_answered(database_url: str, algorithm: str) -> None:
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        for width, newest, counts, full_at in product(WIDTHS, NEWEST, COUNTS, FULL_AT):
            connection.execute("DELETE FROM oban_sa_rates")
            connection.execute(
                "INSERT INTO oban_sa_rates (name, key, width, newest, counts, full_at) "
                "VALUES ('r', '', %s::float8, %s, %s::integer[], %s::timestamp)",
                (width, newest, counts, full_at),
            )
            for spends, wants in ((None, None), (2, 1), (0, 1)):
                try:
                    found = connection.execute(
                        "SELECT oban_sa_rate('r', '', 10, 60, %s, NULL, %s, %s, NULL)", (algorithm, spends, wants)
                    ).fetchone()
                except psycopg.Error as error:
                    raise AssertionError((width, newest, counts[:30], full_at, spends, str(error))) from error
                assert found is not None
                left = found[0]
                assert spends is not None or 0 <= left <= 10, (width, newest, counts[:30], full_at, left)
                assert left is None or left >= 0
                assert left is None or left < float("inf"), (width, newest, counts[:30], full_at, left)
