"""Decoding a recorded value takes time and memory in proportion to its size, also of one made to take more."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.wire.erlang import decode, encode
from oban_sa.wire.erlang_reader import Reader

PRIME = 2**61 - 1
"""Integers that are equal modulo this have one hash."""

FOR_EACH_BYTE = 150
"""Bytes of memory that a term may take for each of its own: an empty list takes one, and sixty-four in Python."""


def text_of(term: bytes, *, compressed: bool = False) -> str:
    whole = b"\x83P" + struct.pack(">I", len(term)) + zlib.compress(term, 9) if compressed else b"\x83" + term
    return base64.b64encode(whole).decode()


def list_of(element: bytes, count: int) -> bytes:
    return b"l" + struct.pack(">I", count) + element * count + b"j"


def big(number: int) -> bytes:
    digits = number.to_bytes((number.bit_length() + 7) // 8, "little")
    return b"o" + struct.pack(">IB", len(digits), 0) + digits


def map_of(*pairs: bytes) -> bytes:
    return b"t" + struct.pack(">I", len(pairs) // 2) + b"".join(pairs)


def peak(text: str) -> int:
    """Bytes of memory that reading a text takes at most, whether it is read or refused."""
    tracemalloc.start()
    try:
        decode(text)
    except ValueError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


BOMBS = {
    "empty lists": list_of(b"j", 12_000_000),
    "strings of zeros": list_of(b"k\xff\xff" + b"\0" * 65_535, 180),
    "one binary": b"m" + struct.pack(">I", 12_000_000) + b"\0" * 12_000_000,
    "empty maps": list_of(b"t\0\0\0\0", 2_400_000),
    "one integer": b"o" + struct.pack(">IB", 12_000_000, 0) + b"\1" * 12_000_000,
    "lists inside each other": b"l\0\0\0\1" * 2_000_000,
    "lists of lists": list_of(list_of(b"j", 1000), 10_000),
}


@pytest.mark.parametrize("term", BOMBS.values(), ids=BOMBS)
def test_a_compressed_value_is_refused_before_it_is_large(term: bytes) -> None:
    text = text_of(term, compressed=True)
    with pytest.raises(ValueError, match=r"the recorded value (claims to unfold|unfolds|is nested|is cut)"):
        decode(text)
    assert peak(text) < 3_000_000 + 50 * len(text)


@pytest.mark.parametrize("element", [b"j", b"a\1", b"t\0\0\0\0", b"h\0", b"k\0\4\0\0\0\0", b"m\0\0\0\0"])
def test_what_reads_of_a_small_compressed_value_is_bounded_in_terms(
    element: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    real = Reader._value

    def counted(self: Any, depth: int) -> Any:
        nonlocal read
        read += 1
        return real(self, depth)

    monkeypatch.setattr(Reader, "_value", counted)
    for count in (1_000, 60_000, 90_000, 110_000, 300_000):
        read = 0
        text = text_of(list_of(element, count), compressed=True)
        try:
            found = decode(text)
        except ValueError:
            assert read <= 120_000
        else:
            assert len(found) == count
            assert read <= 120_000


def test_a_compressed_value_of_usual_density_is_read_in_full() -> None:
    rows = [{"id": n, "email": f"user{n}@example.org", "ok": True, "score": n / 7} for n in range(5_000)]
    term = base64.b64decode(encode(rows) + "==")[1:]
    text = text_of(term, compressed=True)
    assert decode(text) == rows
    assert decode(text_of(list_of(b"a\0", 90_000), compressed=True)) == [0] * 90_000


@given(st.binary(max_size=400), st.booleans())
def test_memory_grows_with_the_size_of_the_text(noise: bytes, compressed: bool) -> None:
    for start in (b"", b"l\0\0\1\0", b"t\0\0\0\x40", b"k\1\0", b"i\0\0\1\0", b"o\0\0\1\0\0"):
        text = text_of(start + noise, compressed=compressed)
        assert peak(text) < 200_000 + FOR_EACH_BYTE * len(text)


def test_keys_of_one_hash_are_refused_before_they_take_long() -> None:
    alike = [big(n * PRIME + 1) for n in range(1, 65)]
    found = decode(text_of(map_of(*(part for key in alike for part in (key, b"j")))))
    assert len(found) == 64
    alike.append(big(65 * PRIME + 1))
    with pytest.raises(ValueError, match="more than 64 keys that have one hash"):
        decode(text_of(map_of(*(part for key in alike for part in (key, b"j")))))
    with pytest.raises(ValueError, match="more than 64 keys that have one hash"):
        decode(text_of(map_of(*(part for key in alike for part in (b"h\1" + key, b"j")))))


def test_as_many_keys_as_one_likes_are_read_where_their_hashes_differ() -> None:
    for value in (
        {n: n for n in range(-5_000, 5_000)},
        {f"k{n}": n for n in range(5_000)},
        {n / 3: n for n in range(999)},
    ):
        assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"a\1", b"F" + struct.pack(">d", 1.0)),
        (b"a\1", b"s\4true"),
        (b"s\1a", b"m\0\0\0\1a"),
        (b"h\1" + b"a\1", b"h\1" + b"s\4true"),
    ],
)
def test_keys_that_are_one_in_python_are_refused_and_none_is_lost(one: bytes, other: bytes) -> None:
    with pytest.raises(ValueError, match=r"two keys that are .* in Python"):
        decode(text_of(map_of(one, b"a\1", other, b"a\2")))


@pytest.mark.parametrize("tag", [82, 88, 89, 90, 112, 113, 117, 77, 81, 255])
def test_references_processes_and_functions_are_no_values(tag: int) -> None:
    with pytest.raises(ValueError, match=f"a term of kind {tag}, which is no plain value"):
        decode(text_of(bytes((tag,)) + b"\0" * 40))


def test_a_count_of_more_than_there_is_makes_nothing() -> None:
    for term in (
        b"l\xff\xff\xff\xff",
        b"i\xff\xff\xff\xff",
        b"t\xff\xff\xff\xff",
        b"m\xff\xff\xff\xff",
        b"o\xff\xff\xff\xff\0",
    ):
        assert peak(text_of(term)) < 100_000
        with pytest.raises(ValueError, match="cut short"):
            decode(text_of(term))
