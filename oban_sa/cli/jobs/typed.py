"""Words as they are typed at a terminal: ids, and texts that a database can hold."""

from __future__ import annotations

from collections.abc import Sequence

import click

from oban_sa import printable


def read_ids(_ctx: click.Context, _argument: click.Parameter, given: str | Sequence[str]) -> int | tuple[int, ...]:
    """Read one id, or several."""
    if isinstance(given, str):
        return _id(given)
    return tuple(_id(word) for word in given)


def plain_words(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """Accept texts; refuse what no database can hold."""
    return tuple(plain(word) for word in given)


def plain(word: str) -> str:
    """Accept a text; raises `click.BadParameter` for bytes that are no UTF-8, which Python has as lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{printable.line(word)} is not valid UTF-8") from None
    return word


def _id(word: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 0 < number < 2**63:
        raise click.BadParameter(f"{word!r} is no job's id, which is a number such as 123; `jobs list` shows them")
    return number
