"""The rules of settings: each function reads a value as text or as TOML has it, and returns it as it is kept.

All raise `InvalidOption` with what to write instead; `Settings` adds which source the value came from. Where a keyword
of `Runner` has another rule, as because a text is no number there, it is in `keywords`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from oban_sa.describe.choices import is_whole
from oban_sa.describe.exceptions import shown
from oban_sa.describe.redaction import safe
from oban_sa.errors import InvalidOption, nearest
from oban_sa.jobs.cron_entry import CronEntry, entries
from oban_sa.schedule.periods import describe, seconds

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("text", "json")
EMBEDDED_FOLDER: Final = "./.oban"

LONGEST_IDENTITY: Final = 255
"""Characters of a node's or an instance's name: a full name of a host, and a process."""

SHORTEST: Final = 0.001
LONGEST: Final = 366 * 86_400.0
"""Seconds of the shortest and the longest span that a runner waits for anything; threads can't wait for ever."""

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})

_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def refuse_controls(text: str, what: str) -> None:
    """Raise `InvalidOption` for a text with control characters, which messages call `what`."""
    if _CONTROL.search(text):
        raise InvalidOption(f"{what} is {text[:60]!r}; leave out its control characters")


def url(value: object) -> str:
    """Read the URL of a database; messages never show a password in it."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        # Without the value, whose password would be in it.
        raise InvalidOption("this is not a URL; write for example postgresql://user:password@host:5432/name")
    text = value.strip()
    if "://" not in text:
        raise InvalidOption(f"{safe(text)!r} is not a URL; write for example postgresql://user:password@host:5432/name")
    return text


def nonempty(value: object) -> str:
    """Read a text, without the spaces around it."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidOption(f"{shown(value, 60)} is not a text")
    return value.strip()


def schemas(value: object) -> tuple[str, ...]:
    """Read one schema, several with commas between, or a list of them."""
    schemas = [schema(name) for name in _listed(value, "write for example tenant_a,tenant_b")]
    for each in schemas:
        if schemas.count(each) > 1:
            raise InvalidOption(f"the schema {each!r} is named twice")
    return tuple(schemas)


def translate(value: object) -> tuple[str | None, ...]:
    """Read names of schemas as models have them; `none` is for tables that name no schema."""
    given: object = value
    if isinstance(value, list | tuple):
        given = ["none" if each is None else each for each in cast("Sequence[object]", value)]
    names = dict.fromkeys(_listed(given, "write for example tenant, or none for tables that name no schema"))
    for name in names:
        refuse_controls(name, "the schema")
    if "public" in names:
        raise InvalidOption("'public' stands for the runner's schema anyway; name other schemas of your models")
    return tuple(None if name.lower() == "none" else name for name in names)


def _listed(value: object, example: str) -> list[str]:
    given: object = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise InvalidOption(f"{value!r} names no schema; {example}")
    parts = [part.strip() for item in cast("Sequence[object]", given) for part in nonempty(item).split(",")]
    if not all(parts):
        raise InvalidOption(f"there is nothing between two commas of {value!r}; {example}")
    return parts


def schema(value: object) -> str:
    """Accept the name of one schema."""
    text = nonempty(value)
    refuse_controls(text, "the schema")
    # The longest channel is <schema>.oban_cronitor, and PostgreSQL has 63 bytes for a channel.
    if len(text.encode()) > 49:
        raise InvalidOption(f"{text!r} is longer than the 49 bytes which leave room for the names of channels")
    return text


def modules(value: object) -> tuple[str, ...]:
    """Read names of modules: a list of them, or a text with commas between."""
    names: list[str] = []
    for name in _parts(value, "names no modules; write for example myapp.jobs"):
        if not all(piece.isidentifier() for piece in name.split(".")):
            guess = name.removesuffix(".py").strip("./").replace("/", ".")
            hint = guess if all(piece.isidentifier() for piece in guess.split(".")) else "myapp.jobs"
            raise InvalidOption(f"{name!r} is not the name of a module; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _parts(value: object, refusal: str) -> list[str]:
    given: object = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidOption(f"{value!r} {refusal}")
    return [part.strip() for item in cast("Sequence[object]", given) for part in nonempty(item).split(",")]


def named_objects(value: object) -> tuple[str, ...]:
    """Read names such as `myapp.tracing:trace`: a list of them, or a text with commas between."""
    names: list[str] = []
    for name in _parts(value, "names no functions; write for example myapp.tracing:trace"):
        module, colon, attribute = name.partition(":")
        if not colon or not all(piece.isidentifier() for path in (module, attribute) for piece in path.split(".")):
            before, _, last = name.replace(":", ".").rpartition(".")
            guess = f"{before}:{last}"
            hint = guess if all(piece.isidentifier() for piece in name.split(".")) and before else "myapp.tracing:trace"
            raise InvalidOption(f"{name!r} is not a module and a name in it; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def named_object(value: object) -> str:
    """Read one name such as `myapp.db:Session`."""
    text = nonempty(value)
    module, dot, last = text.rpartition(".")
    if all(piece.isidentifier() for piece in text.split(".")):
        # A class-like name is the sessionmaker; one like a module is either.
        or_else = f", or {module}:{last} where {last} is the sessionmaker" if dot else ""
        hint = f"{module}:{last}" if dot and last[:1].isupper() else f"{text}:Session{or_else}"
        raise InvalidOption(f"{text!r} is not a module and a name in it; write for example {hint}")
    names = named_objects(text)
    if len(names) != 1:
        raise InvalidOption(f"{value!r} are several names; write one, for example myapp.db:Session")
    return names[0]


def port(value: object) -> int:
    """Read the number of a port, or its digits; 0 is one that the system chooses."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,5}", value.strip()):
        value = int(value)
    if not is_whole(value, 0, 65535):
        # Kubernetes puts an address into OBAN_HEALTH_PORT where a service is named oban-health.
        service = "; is a Kubernetes service named so?" if isinstance(value, str) and "://" in value else ""
        raise InvalidOption(f"{value!r} is not the number of a port, such as 8080{service}")
    return value


def count(value: object) -> int:
    """Accept a whole number from 1 to 999,999,999, or its digits."""
    return strict_count(int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()) else value)


def strict_count(value: object) -> int:
    """Accept a whole number from 1 to 999,999,999, which is no text."""
    if not is_whole(value, 1):
        raise InvalidOption(f"{shown(value, 60)} is not a whole number of at least 1; write for example 4")
    if value > 999_999_999:
        raise InvalidOption(f"{shown(value, 60)} is more than anything here counts; write for example 4")
    return value


def crontab(value: object) -> tuple[CronEntry, ...]:
    """Read the tables of a file; messages count the entries from 1."""
    tables = cast("list[object]", value) if isinstance(value, list) else [value]
    found: list[CronEntry] = []
    for number, each in enumerate(tables, 1):
        try:
            table: Mapping[str, object] = cast("Any", each)
            if isinstance(each, Mapping):
                if not isinstance(table.get("worker"), str):
                    said = f"{table['worker']!r} is no worker" if "worker" in table else "no worker is named"
                    raise InvalidOption(f'{said}; write for example worker = "myapp.jobs.Report"')
            elif not isinstance(each, CronEntry):
                raise InvalidOption(
                    f'{each!r:.80} is no table; write [[cron]] and below it expression = "0 9 * * MON-FRI" '
                    'and worker = "myapp.jobs.Report"'
                )
            found += entries(table)
        except InvalidOption as error:
            raise InvalidOption(f"entry {number}: {error}") from None
    return tuple(found)


def span(value: object) -> float:
    """Read a span of time, in seconds; 0 is one."""
    period = seconds(cast("Any", value))
    if period > LONGEST:
        raise InvalidOption(f"{describe(period)} is longer than a year; a runner waits for nothing that long")
    return period


def above_zero(zero: str) -> Callable[[object], float]:
    """Return what reads a span of time of at least a millisecond; `zero` is the message for 0."""

    def read(value: object) -> float:
        period = span(value)
        if period <= 0:
            raise InvalidOption(zero)
        if period < SHORTEST:
            raise InvalidOption(f"{period:g} seconds is shorter than a millisecond; write for example 1")
        return period

    return read


interval: Final = above_zero("0 seconds is no interval; write for example 1")


def interval_or_none(value: object) -> float | None:
    """Read an interval, or the word `none`."""
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    return interval(value)


def check_death(heartbeat_every: float, dead_after: float) -> None:
    """Raise `InvalidOption` where a node would count as dead after one late heartbeat."""
    if dead_after < 2 * heartbeat_every:
        raise InvalidOption(
            f"with dead_after {dead_after:g} and heartbeat_every {heartbeat_every:g} "
            "one late beat would pass for death; make dead_after at least twice heartbeat_every"
        )


def identity(value: object) -> str:
    """Read the name of a node, an instance or a host."""
    text = nonempty(value)
    refuse_controls(text, "this")
    if len(text) > LONGEST_IDENTITY:
        raise InvalidOption(f"{text[:20]!r}... has {len(text)} characters; at most {LONGEST_IDENTITY} are possible")
    return text


def switch(value: object) -> bool:
    """Read true or false, or a word for one of them."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _YES or word in _NO:
        return word in _YES
    raise InvalidOption(f"{value!r} is neither true nor false")


def folder(value: object) -> Path | None:
    """Read the path of a folder; true is the default folder, false none."""
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _YES | _NO):
        return Path(EMBEDDED_FOLDER) if switch(value) else None
    return value if isinstance(value, Path) else Path(nonempty(value)).expanduser()


def file(value: object) -> Path:
    """Read the path of a file."""
    return value if isinstance(value, Path) else Path(nonempty(value)).expanduser()


def choice(choices: Sequence[str]) -> Callable[[object], str]:
    """Return what reads one of these words."""

    def read(value: object) -> str:
        text = nonempty(value).lower()
        if text not in choices:
            raise InvalidOption(f"{value!r} is not one of {', '.join(choices)}{nearest(text, choices)}")
        return text

    return read
