"""Statements as a driver takes them: the order and the names of their parameters."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.dialects.postgresql import asyncpg, pg8000, psycopg

from oban_sa.sql.insert import Kind
from oban_sa.sql.rendered import Rendered, rendered

NAMES = ("channel", "payload", *reversed(Kind._fields), "args")


@pytest.mark.parametrize("dialect", [asyncpg.dialect, psycopg.dialect, pg8000.dialect])
def test_parameters_in_an_order_of_their_own_are_those_given_by_their_names(dialect: Any) -> None:
    statement = rendered(dialect(), "public", "one", returning=True, notifying=True)
    values = [f"the {name}" for name in NAMES]
    assert statement.given_as(NAMES)(values) == statement.given(dict(zip(NAMES, values, strict=True)))


def test_a_single_parameter_is_a_tuple_as_well() -> None:
    assert Rendered("SELECT $1", ("b",), dict).given_as(("a", "b"))(("x", "y")) == ("y",)
