"""The key of a job: the text by which its partition, or its sequence, is told from others.

A worker says where the key is: "worker", "args.tenant_id", "meta.region", or several of these. The key of one value is
its text, as PostgreSQL writes it with `->>`; that of several is their JSON list, as PostgreSQL writes it. So the same
keys can be made by statements (`oban_sa.sql.keys`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, TypeAlias, cast, get_args

from oban_sa.errors import InvalidJob, InvalidOption, nearest, shown
from oban_sa.jobs import values
from oban_sa.jobs.references import Reference

OnFailure: TypeAlias = Literal["skip", "halt"]
"""What a job that is discarded does to its sequence: the next one follows, or all wait until people decide."""

ON_FAILURE: Final[tuple[OnFailure, ...]] = get_args(OnFailure)

PARTITION: Final = "partition"
SEQUENCE: Final = "sequence"
HALTS: Final = "halts"
"""Keys of a job's meta: the key of its partition, that of its sequence, and true where it halts that."""

LONGEST: Final = 200
"""Characters of a key. What is longer is cut, and ends in the hash of the whole."""

KEPT: Final = LONGEST - 65
"""Characters of a longer key that stand before `#` and its hash, 64 digits."""

Path: TypeAlias = tuple[str, ...]
"""Names from the outside inwards: `("worker",)`, `("args", "tenant_id")`."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the values are that a key is made of; `alone` where it is the text of one, and no list."""

    paths: tuple[Path, ...]
    alone: bool

    @classmethod
    def read(cls, given: object, *, what: str) -> Paths:
        """Return the paths that an option names; raises `InvalidOption`, whose message begins with the option."""
        if isinstance(given, str):
            return cls((_path(given, what),), alone=True)
        whole: object = given
        several = list(cast("Iterable[object]", given)) if isinstance(given, (list, tuple)) else []
        if several:
            return cls(tuple(_path(each, what) for each in several), alone=False)
        raise InvalidOption(_unknown(whole, what))

    def key(self, worker: str, args: object, meta: object, *, what: str) -> str | None:
        """Return the key of a job, or None where the one value is null.

        Raises `InvalidJob` where a value is missing, or makes no key.
        """
        job = {"worker": worker, "args": args, "meta": meta}
        found = [_found(job, path, what) for path in self.paths]
        return key_text(found[0] if self.alone else found, what=what)

    @property
    def names(self) -> list[str]:
        """The names of the args that the values are in."""
        return [path[1] for path in self.paths if path[0] == "args"]

    def __str__(self) -> str:
        said = [".".join(path) for path in self.paths]
        return said[0] if self.alone else f"({', '.join(said)})"


def key_text(value: object, *, what: str) -> str | None:
    """Return the key that a value makes, or a list of several; None for None.

    Raises `InvalidJob` for what makes none: a number with a fraction, a dict, a `ref(...)`.
    """
    if isinstance(value, (list, tuple)):
        parts = [_plain(each, what) for each in cast("Iterable[object]", value)]
        return bounded(json.dumps(parts, ensure_ascii=False))
    plain = _plain(value, what)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return None if plain is None else bounded(str(plain))


def bounded(key: str) -> str:
    """Return a key that is short enough for an index, and still another one for each longer key."""
    return key if len(key) <= LONGEST else f"{key[:KEPT]}#{sha256(key.encode()).hexdigest()}"


_READY: Final = frozenset({str, int, bool, dict, list, tuple, Reference})
"""Types of values that a path leads through as they are; others become JSON first."""


def _path(given: object, what: str) -> Path:
    if not isinstance(given, str):
        raise InvalidOption(_unknown(given, what))
    path = tuple(given.split("."))
    if path == ("worker",) or (path[0] in ("args", "meta") and len(path) > 1 and all(path)):
        return path
    raise InvalidOption(_unknown(given, what))


def _unknown(given: object, what: str) -> str:
    example = f'{what}="args.tenant_id", "worker", "meta.region", a tuple of these, or a function of the job'
    if isinstance(given, str) and given.isidentifier() and given not in ("args", "meta"):
        hint = nearest(given, ["worker"]) or f'; did you mean "args.{given}"?'
        return f"{what}={given!r} is not where a job has its key{hint} Or compute it: {what}=lambda job: ..."
    if (
        isinstance(given, str)
        and (parts := re.findall(r"\w+", given))[1:]
        and (near := [path for path in ("args", "meta") if nearest(parts[0], [path])])
    ):
        return f'{what}={given!r} is not where a job has its key; did you mean "{".".join([near[0], *parts[1:]])}"?'
    if isinstance(given, Reference):
        return f"{what} can't be a ref(...), whose value is known only after a flush; write {example}"
    return f"{what}={shown(given, 60)} is not where a job has its key; write {example}"


def _found(job: Mapping[str, object], path: Path, what: str) -> object:
    value: object = job
    for place, name in enumerate(path):
        if type(value) not in _READY:
            value = values.to_json(value, where=".".join(path[:place]))
        here: object = value
        if values.is_object(value) and name in value:
            value = value[name]
        elif isinstance(value, (list, tuple)) and name.isdigit() and int(name) < len(cast("list[object]", value)):
            value = cast("list[object]", value)[int(name)]
        elif isinstance(value, Reference):
            break
        else:
            raise InvalidJob(_missing(here, path, place, what))
    return value


def _missing(value: object, path: Path, place: int, what: str) -> str:
    names = list(cast("dict[str, object]", value)) if isinstance(value, dict) else []
    if names:
        there = f"has {', '.join(names[:10])}, and no"
    else:
        there = "is empty, so it has no" if value == {} else "is no object, so it has no"
    return f"{what}={'.'.join(path)!r}: {'.'.join(path[:place])} {there} {path[place]!r}{nearest(path[place], names)}"


def _plain(value: object, what: str) -> str | int | None:
    if isinstance(value, Reference):
        raise InvalidJob(
            f"{what} is {value!r}, whose value is known only after the flush; flush the session first, or give another "
            f"{what}"
        )
    if value is not None and type(value) not in (str, int, bool):
        value = values.to_json(value, where=what)
    if value is None or isinstance(value, (str, int)):
        return value
    said = shown(value, 60)
    instead = ", say which part of it" if isinstance(value, dict) else ""
    raise InvalidJob(f"{what} is {said}; a key is a text, a whole number or a tuple of these{instead}")
