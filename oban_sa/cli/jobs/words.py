"""Words typed at a terminal, read: ids, JSON objects, KEY=VALUE, and texts that PostgreSQL can store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from oban_sa.describe import printable
from oban_sa.errors import shown
from oban_sa.wire import json_text


def read_ids(_ctx: click.Context, _argument: click.Parameter, given: str | Sequence[str]) -> int | tuple[int, ...]:
    """Read one id, or several; raises `click.BadParameter` for what can't be a job's id."""
    if isinstance(given, str):
        return _id(given)
    return tuple(_id(word) for word in given)


def plain_words(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """Accept texts, each as `plain` does."""
    return tuple(plain(word) for word in given)


def plain(word: str) -> str:
    """Accept a text; raises `click.BadParameter` for bytes that are no UTF-8, which Python reads as lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{printable.line(word)} is not valid UTF-8") from None
    return word


def object_or_value(word: str, option: str, *, nested: bool = False) -> dict[str, Any] | tuple[str, str]:
    """Read a JSON object, or return the key and the text of KEY=VALUE; with `nested` KEY may be a path, a.b.c.

    Raises `click.BadParameter` for anything else.
    """
    write = f"write {option} '{{\"id\": 7}}' or {option} id=7"
    if word.lstrip().startswith(("{", "[", '"')):
        try:
            read = json_text.read(word)
        except ValueError as error:
            raise click.BadParameter(f"{shown(word, 80)} is not JSON: {error}; {write}") from None
        if not isinstance(read, dict):
            raise click.BadParameter(f"{shown(word, 80)} is JSON, but no object; {write}")
        return read  # pyright: ignore[reportUnknownVariableType]
    key, equals, value = word.partition("=")
    if not equals or not all(key.split(".") if nested else [key]):
        raise click.BadParameter(f"{shown(word, 80)} is neither a JSON object nor KEY=VALUE; {write}")
    return key, value


def _id(word: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 0 < number < 2**63:
        raise click.BadParameter(f"{word!r} is no job's id, which is a number such as 123; `jobs list` shows them")
    return number
