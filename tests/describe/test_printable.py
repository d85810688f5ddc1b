"""Texts of others cannot end a line nor drive a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.describe import printable

ANY = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ünïcode and 日本 and 🎉", "plain, with ünïcode and 日本 and 🎉"),
        ("", ""),
        ("a\nb", "a\\nb"),
        ("a\r\nb", "a\\r\\nb"),
        ("a\tb", "a\\tb"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("nul\0", "nul\\x00"),
        ("\x7f\x85\x9b31m", "\\x7f\\x85\\x9b31m"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800", "\\ud800"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_a_line_shows_what_would_drive_a_terminal(text: str, shown: str) -> None:
    assert printable.line(text) == shown


def test_a_quick_look_at_a_text_misses_no_character() -> None:
    # A text with a control character is looked at one by one.
    for each in map(chr, range(sys.maxunicode + 1)):
        if each.isprintable():
            assert printable.line(f"\0{each}") == f"\\x00{printable.line(each)}"
            assert printable.block(f"\0{each}") == f"\\x00{printable.block(each)}"
        if each.isascii():
            assert printable.in_json(f"\x85{each}") == f"\\u0085{printable.in_json(each)}"


class Odd(str):
    """A text with methods of its own."""

    def isprintable(self) -> bool:
        return True

    def __str__(self) -> str:
        return "a\nb"


def test_a_text_with_methods_of_its_own_becomes_a_plain_one() -> None:
    for text in ("plain", "a\x1bb"):
        assert printable.line(Odd(text)) == printable.line(text)
        assert f"{printable.line(Odd(text))!s}" == printable.line(text)
        assert printable.block(Odd(text)) == printable.block(text)


@given(ANY)
def test_any_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    shown = printable.line(text)
    assert len(shown.splitlines()) <= 1
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    shown.encode()


@given(ANY)
def test_every_line_of_a_block_is_indented_whatever_ended_it(text: str) -> None:
    shown = printable.block(text, indent="  | ")
    assert all(each.startswith("  | ") for each in shown.splitlines())
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") and each not in "\n\t"]
    shown.encode()


def test_a_block_keeps_its_lines_and_tabs() -> None:
    assert printable.block("one\n\ttwo\r\nthree\x1b", indent="> ") == "> one\n> \ttwo\n> three\\x1b"
