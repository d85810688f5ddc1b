"""JSON is read exactly, and any value can be written as JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.wire import json_text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
huge_values = st.recursive(
    st.integers(min_value=-(10**60), max_value=10**60) | st.text(alphabet='0123456789"\\\n{}[],: é', max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(json_values | huge_values, st.booleans())
def test_what_was_written_is_read_exactly(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json_text.read(text) == value
    assert json_text.read(text.encode()) == value
    assert json.dumps(json_text.read(text)) == json.dumps(value)


@given(json_values | huge_values)
def test_what_is_read_without_recursion_is_read_alike(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert json_text._unnested(text) == value


@given(json_values | huge_values, st.booleans())
def test_what_is_written_without_recursion_is_read_back(value: Any, indent: bool) -> None:
    assert json.loads(json_text.write(value, indent=indent)) == value
    assert json.loads(json_text._written(value, indent=indent, default=str)) == value


def test_both_ways_of_writing_write_alike() -> None:
    value = {"a": [1, {"b": None, "c": [], "d": {}}, [["x"]]], "é\n": [True, 1.5]}
    assert json_text._written(value, indent=False, default=str) == orjson.dumps(value).decode()
    assert (
        json_text._written(value, indent=True, default=str) == orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    )


def test_any_depth_is_read_and_written() -> None:
    text = '{"a":[' * 50_000 + "1" + "]}" * 50_000
    value = json_text.read(text)
    assert json_text.write(value) == text
    assert len(json_text.write(value, indent=True)) < 2 * len(text)


def test_only_texts_with_nineteen_digits_in_a_row_are_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    slowly: list[Any] = []
    real = json_text._exactly

    def noted(text: Any) -> Any:
        slowly.append(text)
        return real(text)

    monkeypatch.setattr(json_text, "_exactly", noted)
    for text in (
        '{"n": 999999999999999999}',
        "[0.125, -1e20]",
        '{"a": {"b": [1.5, "x"]}}',
        '{"s": "1234567890123456789"}',
    ):
        assert json_text.read(text) == orjson.loads(text)
    assert slowly == []
    assert json_text.read("[9999999999999999999]") == [9999999999999999999]
    assert slowly == ["[9999999999999999999]"]


def test_a_number_that_no_float_holds_is_a_decimal_and_written_as_a_number() -> None:
    text = "[" + "9" * 5_000 + ", " + "9" * 400 + ".5]"
    value = json_text.read(text)
    assert value == [Decimal("9" * 5_000), Decimal("9" * 400 + ".5")]
    assert json_text.write(value) == text.replace(" ", "")
    assert json_text.write(10**5_000) == "1" + "0" * 5_000


@pytest.mark.parametrize("text", ["", "{", "nul", "[1,]", '{"a"}', "[1] 2"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.read(text)


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("odd")

    __repr__ = __str__


def test_whatever_there_is_is_written() -> None:
    within: list[Any] = [1]
    within.append(within)
    assert json_text.write(within) == '[1,"..."]'
    shared = [1]
    assert json_text.write([shared, shared, 2**64]) == "[[1],[1],18446744073709551616]"
    odd = {1: "a", (2, b"x"): float("nan"), None: Odd()}
    assert json.loads(json_text.write(odd)) == {"1": "a", """[2,"b'x'"]""": None, "null": "<Odd>"}
    assert json_text.write("\ud800") == '"?"'
