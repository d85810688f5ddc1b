"""Args that nobody is to see: what is shown of them instead, wherever a person reads of a job.

A worker names them, and their names stand in the meta of each of its jobs, so that programs that don't know the worker
hide them too. Of encrypted args all are hidden.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

from oban_sa.errors import InvalidOption
from oban_sa.jobs.encryption import is_sealed
from oban_sa.jobs.hidden import ENCRYPTED, REDACTED
from oban_sa.jobs.values import JSONDict

HIDDEN: Final = "[redacted]"

_SHORTEST: Final = 3
"""Characters of a value that is looked for in a text; shorter ones are in every text."""


def names(given: object) -> tuple[str, ...]:
    """Accept names of args, such as `["card", "customer.phone"]`; raises `InvalidOption`."""
    if isinstance(given, str):
        raise InvalidOption(f"redact is a list of names; write redact=[{given!r}]")
    found = tuple(cast("Iterable[object]", given)) if isinstance(given, (list, tuple, set, frozenset)) else (given,)
    for each in found:
        if not isinstance(each, str) or not all(each.split(".")):
            raise InvalidOption(f'redact={given!r} names no args; write redact=["card", "customer.phone"]')
    return cast("tuple[str, ...]", found)


def args(job_args: object, meta: object) -> object:
    """Return the args of a job as they may be shown; the job's own stay as they are.

    Takes whatever a row may have. Encrypted args are shown as they stand in the row.
    """
    paths = _paths(meta)
    if not paths or not isinstance(job_args, Mapping):
        return job_args
    given = cast("Mapping[str, object]", job_args)
    if is_sealed(given):
        return given
    if _encrypted(meta):
        return dict.fromkeys(given, HIDDEN)
    shown: object = given
    for path in paths:
        shown = _without(shown, path)
    return shown


def text(said: str, job_args: object, meta: object) -> str:
    """Return a text, such as that of an error, without the values that may not be shown."""
    return without(said, longest_first(secrets(job_args, meta)))


def without(said: str, hidden: Sequence[str]) -> str:
    """Return a text without these values, of which the longest come first."""
    for secret in hidden:
        said = said.replace(secret, HIDDEN)
    return said


def longest_first(found: Iterable[str]) -> list[str]:
    """Return values in the order in which they are taken out: one may stand in another."""
    return sorted(set(found), key=len, reverse=True)


def errors(entries: Iterable[object], job_args: object, meta: object) -> list[object]:
    """Return the entries of a job's `errors` as they may be shown, whatever they hold."""
    hidden = longest_first(secrets(job_args, meta))
    return [_hidden(each, hidden) for each in entries] if hidden else list(entries)


def _hidden(value: object, hidden: list[str]) -> object:
    if isinstance(value, str):
        return without(value, hidden)
    if isinstance(value, Mapping):
        return {name: _hidden(each, hidden) for name, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_hidden(each, hidden) for each in cast("list[object]", value)]
    return value


def secrets(job_args: object, meta: object) -> Iterator[str]:
    """Yield how the hidden values of a job may stand in a text."""
    for path in _paths(meta):
        for value in _leaves(job_args if _encrypted(meta) else _inside(job_args, path)):
            for written in {value, repr(value)[1:-1], json.dumps(value)[1:-1]}:
                if len(written) >= _SHORTEST:
                    yield written


def error(raised: BaseException, job_args: object, meta: object) -> None:
    """Take the hidden values out of the message of an exception, and of those that led to it, where they are texts."""
    if hidden := longest_first(secrets(job_args, meta)):
        clear(raised, hidden)


def clear(raised: BaseException, hidden: Sequence[str]) -> None:
    """Take values, of which the longest come first, out of the message of an exception and of those that led to it."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [raised]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        try:
            each.args = tuple(without(part, hidden) if isinstance(part, str) else part for part in each.args)
        except Exception:  # noqa: S112 - a class may refuse it, and then only what is kept of it is without them
            continue


def _encrypted(meta: object) -> bool:
    return isinstance(meta, Mapping) and cast("Mapping[str, object]", meta).get(ENCRYPTED) is True


def _paths(meta: object) -> list[str]:
    if not isinstance(meta, Mapping):
        return []
    given = cast("JSONDict", meta)
    named = given.get(REDACTED)
    paths = [each for each in cast("list[object]", named) if isinstance(each, str)] if isinstance(named, list) else []
    return ["", *paths] if _encrypted(given) else paths


def _inside(value: object, path: str) -> object:
    if isinstance(value, list):
        return [_inside(each, path) for each in cast("list[object]", value)]
    if not isinstance(value, Mapping):
        return None
    name, _, rest = path.partition(".")
    found = cast("Mapping[str, object]", value).get(name)
    return _inside(found, rest) if rest else found


def _without(value: object, path: str) -> object:
    name, _, rest = path.partition(".")
    if isinstance(value, list):
        return [_without(each, path) for each in cast("list[object]", value)]
    if not isinstance(value, Mapping) or name not in value:
        return value  # pyright: ignore[reportUnknownVariableType]
    given = cast("Mapping[str, object]", value)
    return {**given, name: _without(given[name], rest) if rest else HIDDEN}


def _leaves(value: object) -> Iterator[str]:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            todo += cast("Mapping[str, object]", each).values()
        elif isinstance(each, (list, tuple)):
            todo += cast("list[object]", each)
        elif isinstance(each, str):
            yield each
        elif isinstance(each, (int, float)) and not isinstance(each, bool):
            yield str(each)
