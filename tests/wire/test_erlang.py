from __future__ import annotations

import base64
import contextlib
import enum
import math
import struct
import sys
import zlib
from collections import OrderedDict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from oban_sa.wire import erlang, erlang_reader
from oban_sa.wire.erlang import decode, encode
from oban_sa.wire.erlang_tags import MAX_DEPTH
from tests.strategies import json_values

try:
    import erlpack
except ImportError:
    erlpack = None

with_erlpack = pytest.mark.skipif(erlpack is None, reason="erlpack is not installed")


class Level(enum.IntEnum):
    HIGH = 300


class Text(str):
    __slots__ = ()

    def encode(self, *options: Any) -> bytes:
        return b"something else"


Point = namedtuple("Point", "x y")  # noqa: PYI024 - erlpack sees a tuple

keys = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
scalars = keys | st.floats(allow_nan=False, allow_infinity=False)
terms = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys | st.tuples(keys), inner),
    max_leaves=12,
)
anything = st.recursive(
    scalars
    | st.floats()
    | st.integers()
    | st.text(st.characters())
    | st.decimals()
    | st.dates()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=8,
)


@pytest.fixture(params=["erlpack", "own"])
def encoder(request, monkeypatch):
    """Run a test with erlpack, where it is installed, and with our own encoder."""
    if request.param == "own":
        monkeypatch.setattr(erlang, "_erlpack", lambda: None)
    elif erlpack is None:
        pytest.skip("erlpack is not installed")
    return request.param


def text_of(binary: bytes) -> str:
    return base64.b64encode(binary).decode()


def nested(depth: int, wrap: Any = lambda value: [value]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def packs(value: Any) -> bytes | None:
    try:
        return erlpack.pack(value)
    except Exception:
        return None


def ours(value: Any) -> bytes | None:
    try:
        return erlang._own_pack(value)
    except (ValueError, TypeError):
        return None


# Writing


@with_erlpack
@given(terms)
@example(2**31 - 1)
@example(2**31)
@example(-(2**31))
@example(-(2**31) - 1)
@example(2**64 - 1)
@example(-(2**63))
@example(255)
@example(256)
@example(-1)
@example(-0.0)
@example([])
@example(())
@example({})
@example(tuple(range(255)))
@example(tuple(range(256)))
@example(list(range(300)))
@example("x" * 70_000)
def test_terms_are_byte_for_byte_those_of_erlpack(value):
    assert erlang._own_pack(value) == erlpack.pack(value)
    assert encode(value) == base64.b64encode(erlpack.pack(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, b"s\x03nil"),
        (True, b"s\x04true"),
        (False, b"s\x05false"),
        (255, b"a\xff"),
        (256, b"b\x00\x00\x01\x00"),
        (-1, b"b\xff\xff\xff\xff"),
        (2**31, b"n\x04\x00\x00\x00\x00\x80"),
        (-(2**31) - 1, b"n\x04\x01\x01\x00\x00\x80"),
        (2**64 - 1, b"n\x08\x00" + b"\xff" * 8),
        (1.5, b"F?\xf8\x00\x00\x00\x00\x00\x00"),
        ("é", b"m\x00\x00\x00\x02\xc3\xa9"),
        (b"\xff", b"m\x00\x00\x00\x01\xff"),
        ([], b"j"),
        ([255, []], b"l\x00\x00\x00\x02a\xffjj"),
        ((), b"h\x00"),
        ((1,) * 256, b"i\x00\x00\x01\x00" + b"a\x01" * 256),
        ({}, b"t\x00\x00\x00\x00"),
        ({"a": 1}, b"t\x00\x00\x00\x01m\x00\x00\x00\x01aa\x01"),
    ],
    ids=lambda value: "",
)
def test_terms_are_those_that_erlpack_wrote_when_it_was_asked(encoder, value, expected):
    assert erlang._pack(value) == b"\x83" + expected


@with_erlpack
@pytest.mark.parametrize(
    "value",
    [Level.HIGH, Text("x"), Point(1, "a"), OrderedDict(b=1, a=2), {Level.HIGH: Text("x")}, [Point(1, 2)]],
    ids=repr,
)
def test_subclasses_are_written_as_erlpack_writes_them(value):
    assert erlang._own_pack(value) == erlpack.pack(value)


@with_erlpack
@given(anything)
@example(2**64)
@example(-(2**63) - 1)
@example("\ud800")
@example(bytearray(b"x"))
@example(range(3))
def test_what_erlpack_refuses_we_refuse_and_what_it_writes_we_write_save_for_what_erlang_can_not_read(value):
    theirs = packs(value)
    if theirs is not None and erlang._NOT_FINITE.search(theirs):
        assume(ours(value) is not None)
    assert ours(value) == theirs


@with_erlpack
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}], ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 2])
def test_nesting_is_bounded_where_erlpack_bounds_it(wrap, depth):
    value = nested(depth, wrap)
    assert ours(value) == packs(value)
    assert (ours(value) is None) == (depth > MAX_DEPTH)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({"a": [1, {2}]}, TypeError, r"^value\['a'\]\[1\] is a set, which can't be recorded; record numbers"),
        (Decimal(1), TypeError, "^value is a Decimal"),
        ([object()], TypeError, r"^value\[0\] is an object"),
        ({object: 1}, TypeError, "is a type"),
        (2**64, ValueError, "^value is an integer outside 64 bits; record it as text"),
        (-(2**63) - 1, ValueError, "outside 64 bits"),
        ({"a": "\ud800"}, ValueError, r"^value\['a'\] contains a lone surrogate"),
        ({"a": math.nan}, ValueError, r"^value\['a'\] is nan, which Erlang doesn't have"),
        ((math.inf,), ValueError, r"^value\[0\] is inf"),
        (-math.inf, ValueError, "^value is -inf"),
        (nested(10_000), ValueError, "nested more than 256 levels deep"),
    ],
    ids=lambda value: "",
)
def test_what_has_no_form_in_erlang_is_refused_by_the_path_to_it(encoder, value, kind, words):
    with pytest.raises(kind, match=words) as refused:
        encode(value)
    assert len(str(refused.value)) < 400


def test_a_value_that_contains_itself_is_refused(encoder):
    value: list[Any] = []
    value.append({"again": value})
    with pytest.raises(ValueError, match="contains itself"):
        encode(value)


def test_a_text_that_looks_like_a_float_without_a_number_is_written(encoder):
    for text in ("F\x7f\U0001f600", b"F\x7f\xf8\0\0\0\0\0\0", b"F\xff\xf0"):
        assert decode(encode([text])) == [text.decode() if isinstance(text, bytes) and text.isascii() else text]


def test_the_text_has_no_padding(encoder):
    for size in range(6):
        assert not encode("x" * size).endswith("=")
        assert decode(encode("x" * size)) == "x" * size


# Reading


def as_read(value: Any) -> Any:
    """Return what a value is after it was read: binaries that are UTF-8 are text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, tuple):
        return tuple(as_read(item) for item in value)
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, dict):
        return {as_read(key): as_read(item) for key, item in value.items()}
    return value


@given(json_values)
def test_json_is_read_back_as_it_was_recorded(value):
    read = decode(encode(value))
    assert read == value
    assert repr(read) == repr(value)


@given(terms)
def test_everything_that_can_be_recorded_is_read_back(value):
    assert decode(encode(value)) == as_read(value)


@given(terms)
def test_a_term_that_elixir_compressed_is_read_too(value):
    term = erlang._own_pack(value)[1:]
    folded = b"\x83P" + struct.pack(">I", len(term)) + zlib.compress(term)
    assert decode(text_of(folded)) == as_read(value)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (b"s\x03nil", None),
        (b"w\x04true", True),
        (b"d\x00\x05false", False),
        (b"v\x00\x02ok", "ok"),
        (b"w\x03\xc3\xa9x", "éx"),
        (b"s\x01\xe9", "é"),
        (b"w\x04null", "null"),
        (b"k\x00\x03abc", [97, 98, 99]),
        (b"k\x00\x00", []),
        (b"j", []),
        (b"h\x02w\x02oka\x01", ("ok", 1)),
        (b"i\x00\x00\x00\x01a\x01", (1,)),
        (b"n\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01", -(2**64)),
        (b"n\x00\x00", 0),
        (b"o\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", 2**64),
        (b"c1.50000000000000000000e+00\x00\x00\x00\x00\x00", 1.5),
        (b"m\x00\x00\x00\x01\xff", b"\xff"),
        (b"t\x00\x00\x00\x01h\x01a\x01w\x01x", {(1,): "x"}),
    ],
)
def test_what_other_members_of_the_family_write_is_read(term, expected):
    read = decode(text_of(b"\x83" + term))
    assert read == expected
    assert type(read) is type(expected)
    assert decode(text_of(b"\x83" + term).rstrip("=")) == expected


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (b"", "doesn't begin with 131"),
        (b"\x82a\x01", "doesn't begin with 131"),
        (b"\x83", "cut short"),
        (b"\x83a", "cut short"),
        (b"\x83b\x00\x00", "cut short"),
        (b"\x83F\x00", "cut short"),
        (b"\x83m\xff\xff\xff\xffabc", "cut short: 4294967295 bytes expected, 3 left"),
        (b"\x83l\xff\xff\xff\xffj", "cut short: 4294967295 elements claimed"),
        (b"\x83t\x00\x00\x00\x02jjj", "cut short: 2 elements claimed"),
        (b"\x83i\xff\xff\xff\xff", "cut short"),
        (b"\x83h\x02a\x01", "cut short"),
        (b"\x83o\xff\xff\xff\xff\x00\x01", "cut short"),
        (b"\x83n\x01\x02\x01", "unknown sign"),
        (b"\x83a\x01a\x01", "2 bytes follow"),
        (b"\x83l\x00\x00\x00\x01a\x01a\x02", "improper list"),
        (b"\x83t\x00\x00\x00\x01ja\x01", "map with a list in a key"),
        (b"\x83t\x00\x00\x00\x01h\x01ja\x01", "map with a tuple in a key"),
        (b"\x83F\x7f\xf8\x00\x00\x00\x00\x00\x00", "holds nan"),
        (b"\x83F\xff\xf0\x00\x00\x00\x00\x00\x00", "holds -inf"),
        (b"\x83c" + b"x" * 31, "damaged float"),
        (b"\x83c" + b"1e999".ljust(31, b"\0"), "holds inf"),
        (b"\x83c" + b"1_0".ljust(31, b"\0"), "damaged float"),
        (b"\x83w\x01\xff", "atom that is not UTF-8"),
        (b"\x83g", "kind 103, which is no plain value"),
        (b"\x83Y", "kind 89"),
        (b"\x83q\x00", "kind 113"),
        (b"\x83P", "claims to unfold"),
        (b"\x83P\xff\xff\xff\xff", "claims to unfold to 4294967295 bytes; at most 500300"),
        (b"\x83P\x00\x00\x00\x02nonsense", "compressed and damaged"),
        (b"\x83P\x00\x00\x00\x02" + zlib.compress(b"a\x01")[:-1], "not of the size it claims"),
        (b"\x83P\x00\x00\x00\x01" + zlib.compress(b"a\x01"), "not of the size it claims"),
        (b"\x83P\x00\x00\x00\x03" + zlib.compress(b"a\x01"), "not of the size it claims"),
        (b"\x83P\x00\x00\x00\x02" + zlib.compress(b"a\x01") + b"x", "not of the size it claims"),
        (b"\x83" + b"l\x00\x00\x00\x01" * 300 + b"j" * 301, "nested more than 256"),
        (b"\x83" + b"h\x01" * 100_000 + b"j", "nested more than 256"),
        (b"\x83P\x00\x00\x00\x04" + zlib.compress(b"\x83a\x01j"), "kind 131"),
    ],
    ids=lambda value: "",
)
def test_a_malformed_term_is_refused(binary, words):
    with pytest.raises(ValueError, match=words):
        decode(text_of(binary))


@pytest.mark.parametrize("text", ["not base64!", "é", "\0", "a", "g2E*", "g2!EB", None, 7, b"g2EB"])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(ValueError, match="recorded value"):
        decode(text)


def test_the_deepest_value_is_read_even_far_down_the_stack():
    def deep(left):
        return decode(encode(nested(MAX_DEPTH))) if left == 0 else deep(left - 1)

    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    assert deep(sys.getrecursionlimit() - used - MAX_DEPTH - 100) == nested(MAX_DEPTH)


def test_a_few_bytes_never_unfold_to_millions_of_terms(monkeypatch):
    monkeypatch.setattr(erlang_reader, "MAX_UNFOLDED_TERMS", 1000)
    for count, kept in ((1000, True), (1001, False)):
        term = b"l" + struct.pack(">I", count) + b"j" * (count + 1)
        folded = b"\x83P" + struct.pack(">I", len(term)) + zlib.compress(term)
        if kept:
            assert decode(text_of(folded)) == [[]] * count
        else:
            with pytest.raises(ValueError, match="more than 1000 terms"):
                decode(text_of(folded))


def test_a_compressed_term_is_unfolded_no_further_than_it_claims(monkeypatch):
    asked = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self):
            self._real = real()

        def __getattr__(self, name):
            return getattr(self._real, name)

        def decompress(self, data, most):
            asked.append(most)
            return self._real.decompress(data, most)

    monkeypatch.setattr(erlang_reader.zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="not of the size it claims"):
        decode(text_of(b"\x83P\x00\x00\x00\x10" + zlib.compress(b"m" + b"\0" * 10_000_000)))
    assert asked == [17]


@given(st.binary(max_size=60))
def test_noise_is_read_or_refused_and_nothing_else(noise):
    for start in (b"", b"\x83", b"\x83l\x00\x00\x00\x02", b"\x83t\x00\x00\x00\x01", b"\x83P\x00\x00\x00\x08"):
        read_or_refused(text_of(start + noise))


@given(terms, st.data())
def test_a_damaged_term_is_read_or_refused_and_nothing_else(value, data):
    binary = bytearray(erlang._own_pack(value))
    for _ in range(data.draw(st.integers(1, 3))):
        binary[data.draw(st.integers(0, len(binary) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(text_of(bytes(binary[: data.draw(st.integers(0, len(binary)))])))
    read_or_refused(text_of(bytes(binary)))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text):
    read_or_refused(text)


def read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert plain(decode(text))


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, bytes)
