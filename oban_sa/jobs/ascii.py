"""The texts of a verdict in ASCII, which every encoding of a database can hold."""

from __future__ import annotations

from typing import Any, cast

from oban_sa.jobs.values import is_object
from oban_sa.jobs.verdicts import Verdict, storable


def in_ascii(verdict: Verdict) -> Verdict:
    """Return the verdict with all its texts in ASCII, other characters spelled as `\\u20ac`."""
    meta = verdict.meta
    return verdict._replace(
        error=None if verdict.error is None else spelled(verdict.error),
        meta=None if meta is None else _spelled_within(meta),
    )


def spelled(text: str) -> str:
    """Return the text in ASCII, other characters spelled as `\\u20ac`."""
    return storable(text).encode("ascii", "backslashreplace").decode("ascii")


def _spelled_within(value: object) -> Any:
    if isinstance(value, str):
        return spelled(value)
    if is_object(value):
        return {_spelled_within(key): _spelled_within(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_spelled_within(each) for each in cast("list[object]", value)]
    return value
