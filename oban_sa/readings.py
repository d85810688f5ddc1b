"""What each setting of a runner may be, whether it comes as text, from TOML or as a keyword of `Runner`.

READ takes texts for numbers and lists, as flags and variables have them; keywords (`oban_sa.runner.options`) have the
same rules without that. Every function returns the value as it is kept, or raises `InvalidOption` with what to write
instead; where the value came from is said by whoever reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from oban_sa.cronentry import CronEntry, entries
from oban_sa.errors import InvalidOption, nearest
from oban_sa.failures import shown
from oban_sa.passwords import safe
from oban_sa.periods import describe, seconds
from oban_sa.retention import read_prune

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("text", "json")
EMBEDDED_FOLDER: Final = "./.oban"

_QUEUES_EXAMPLE: Final = "write for example default:10,mailers:5"


LONGEST_NAME: Final = 127
"""Characters of the name of a queue, in the family's tables."""

LONGEST_IDENTITY: Final = 255
"""Characters of a node's or an instance's name: a full name of a host, and a process."""

MOST: Final = 100_000
"""Jobs of a queue at once on a node."""

SHORTEST: Final = 0.001
LONGEST: Final = 366 * 86_400.0
"""Seconds of the shortest and the longest span that a runner waits for anything; threads can't wait for ever."""

_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def parse_queues(value: object) -> dict[str, int]:
    """Return queues and their limits from `default:10,mailers:5`, or from a table such as TOML's `{default = 10}`."""
    if isinstance(value, str):
        return _queues_from_text(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[object, object]", value)
        if not table:
            raise InvalidOption(f"no queue is named; {_QUEUES_EXAMPLE}")
        return {queue_name(name): _queue_limit(str(name), limit) for name, limit in table.items()}
    raise InvalidOption(f"{value!r} names no queues; {_QUEUES_EXAMPLE}")


def _queues_from_text(text: str) -> dict[str, int]:
    queues: dict[str, int] = {}
    if not text.strip():
        raise InvalidOption(f"no queue is named; {_QUEUES_EXAMPLE}")
    for part in (part.strip() for part in text.split(",")):
        name, colon, limit = part.partition(":")
        if not part:
            raise InvalidOption(f"there is nothing between two commas of {text!r}; {_QUEUES_EXAMPLE}")
        if not colon:
            named = re.split(r"[\s=;]", part)[0] or "default"
            raise InvalidOption(f"{part!r} is not a queue and its limit; write {named}:10, several with commas between")
        name = queue_name(name.strip())
        if name in queues:
            raise InvalidOption(f"the queue {name!r} is named twice")
        queues[name] = _queue_limit(name, limit.strip())
    return queues


def queue_name(name: object) -> str:
    """Accept the name of a queue that a runner serves."""
    if not isinstance(name, str):
        raise InvalidOption(f"{shown(name, 60)} is not the name of a queue, which is a text; {_QUEUES_EXAMPLE}")
    if not name.strip():
        raise InvalidOption(f"a queue has no name; {_QUEUES_EXAMPLE}")
    if len(name) > LONGEST_NAME:
        raise InvalidOption(
            f"the queue {name[:20]!r}... has a name of {len(name)} characters; at most {LONGEST_NAME} are possible"
        )
    _refuse_controls(name, "the name of a queue")
    return name


def queue_limit(name: str, limit: object) -> int:
    """Accept how many jobs of a queue run at once."""
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise InvalidOption(
            f"the queue {name!r} has the limit {shown(limit, 60)}, which is not a whole number; write {name}:10"
        )
    if not 1 <= limit <= MOST:
        raise InvalidOption(f"the queue {name!r} has the limit {shown(limit, 60)}; it runs 1 to {MOST} jobs at once")
    return limit


def _refuse_controls(text: str, what: str) -> None:
    if _CONTROL.search(text):
        raise InvalidOption(f"{what} is {text[:60]!r}; leave out its control characters")


def _queue_limit(name: str, limit: object) -> int:
    if isinstance(limit, str) and re.fullmatch(r"\d{1,9}", limit):
        limit = int(limit)
    if isinstance(limit, Mapping):
        options = cast("Mapping[str, object]", limit)
        for key in options:
            if key != "limit":
                raise InvalidOption(f"the queue {name!r} has an unknown option {key!r}{nearest(key, ['limit'])}")
        limit = options.get("limit", 10)
    return queue_limit(name, limit)


def _url(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        # Without the value, whose password would be in it.
        raise InvalidOption("this is not a URL; write for example postgresql://user:password@host:5432/name")
    text = value.strip()
    if "://" not in text:
        raise InvalidOption(f"{safe(text)!r} is not a URL; write for example postgresql://user:password@host:5432/name")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidOption(f"{shown(value, 60)} is not a text")
    return value.strip()


def _schemas(value: object) -> tuple[str, ...]:
    """Read one schema, several with commas between, or a list of them."""
    schemas = [schema(name) for name in _listed(value, "write for example tenant_a,tenant_b")]
    for each in schemas:
        if schemas.count(each) > 1:
            raise InvalidOption(f"the schema {each!r} is named twice")
    return tuple(schemas)


def _translate(value: object) -> tuple[str | None, ...]:
    """Read names of schemas as models have them; `none` is for tables that name no schema."""
    given: object = value
    if isinstance(value, list | tuple):
        given = ["none" if each is None else each for each in cast("Sequence[object]", value)]
    names = dict.fromkeys(_listed(given, "write for example tenant, or none for tables that name no schema"))
    for name in names:
        _refuse_controls(name, "the schema")
    if "public" in names:
        raise InvalidOption("'public' stands for the runner's schema anyway; name other schemas of your models")
    return tuple(None if name.lower() == "none" else name for name in names)


def _listed(value: object, example: str) -> list[str]:
    given: object = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise InvalidOption(f"{value!r} names no schema; {example}")
    parts = [part.strip() for item in cast("Sequence[object]", given) for part in _text(item).split(",")]
    if not all(parts):
        raise InvalidOption(f"there is nothing between two commas of {value!r}; {example}")
    return parts


def schema(value: object) -> str:
    """Accept the name of one schema."""
    text = _text(value)
    _refuse_controls(text, "the schema")
    # The longest channel is <schema>.oban_cronitor, and PostgreSQL has 63 bytes for a channel.
    if len(text.encode()) > 49:
        raise InvalidOption(f"{text!r} is longer than the 49 bytes which leave room for the names of channels")
    return text


def _names(value: object) -> tuple[str, ...]:
    given: object = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidOption(f"{value!r} names no modules; write for example myapp.jobs")
    names: list[str] = []
    for part in (part for item in cast("Sequence[object]", given) for part in _text(item).split(",")):
        name = part.strip()
        if not all(piece.isidentifier() for piece in name.split(".")):
            guess = name.removesuffix(".py").strip("./").replace("/", ".")
            hint = guess if all(piece.isidentifier() for piece in guess.split(".")) else "myapp.jobs"
            raise InvalidOption(f"{name!r} is not the name of a module; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _attributes(value: object) -> tuple[str, ...]:
    given: object = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidOption(f"{value!r} names no functions; write for example myapp.tracing:trace")
    names: list[str] = []
    for name in (part.strip() for item in cast("Sequence[object]", given) for part in _text(item).split(",")):
        module, colon, attribute = name.partition(":")
        if not colon or not all(piece.isidentifier() for path in (module, attribute) for piece in path.split(".")):
            before, _, last = name.replace(":", ".").rpartition(".")
            guess = f"{before}:{last}"
            hint = guess if all(piece.isidentifier() for piece in name.split(".")) and before else "myapp.tracing:trace"
            raise InvalidOption(f"{name!r} is not a module and a name in it; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _attribute(value: object) -> str:
    text = _text(value).strip()
    module, dot, last = text.rpartition(".")
    if all(piece.isidentifier() for piece in text.split(".")):
        # A class-like name is the sessionmaker; one like a module is either.
        or_else = f", or {module}:{last} where {last} is the sessionmaker" if dot else ""
        hint = f"{module}:{last}" if dot and last[:1].isupper() else f"{text}:Session{or_else}"
        raise InvalidOption(f"{text!r} is not a module and a name in it; write for example {hint}")
    names = _attributes(_text(value))
    if len(names) != 1:
        raise InvalidOption(f"{value!r} are several names; write one, for example myapp.db:Session")
    return names[0]


def _port(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,5}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        # Kubernetes puts an address into OBAN_HEALTH_PORT where a service is named oban-health.
        service = "; is a Kubernetes service named so?" if isinstance(value, str) and "://" in value else ""
        raise InvalidOption(f"{value!r} is not the number of a port, such as 8080{service}")
    return value


def _count(value: object) -> int:
    return count(int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()) else value)


def count(value: object) -> int:
    """Accept how many there are of something: 1 to 999,999,999."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(f"{shown(value, 60)} is not a whole number of at least 1; write for example 4")
    if value > 999_999_999:
        raise InvalidOption(f"{shown(value, 60)} is more than anything here counts; write for example 4")
    return value


def _crontab(value: object) -> tuple[CronEntry, ...]:
    """Read the tables of a file; what is wrong is said with the number of the entry, counted from 1."""
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
    """Accept a span of time that may be none at all."""
    period = seconds(cast("Any", value))
    if period > LONGEST:
        raise InvalidOption(f"{describe(period)} is longer than a year; a runner waits for nothing that long")
    return period


def _above_zero(zero: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        period = span(value)
        if period <= 0:
            raise InvalidOption(zero)
        if period < SHORTEST:
            raise InvalidOption(f"{period:g} seconds is shorter than a millisecond; write for example 1")
        return period

    return read


_interval: Final = _above_zero("0 seconds is no interval; write for example 1")


def _interval_or_none(value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    return _interval(value)


def check_death(heartbeat_every: float, dead_after: float) -> None:
    """Refuse a node to be taken for dead that is one beat late."""
    if dead_after < 2 * heartbeat_every:
        raise InvalidOption(
            f"with dead_after {dead_after:g} and heartbeat_every {heartbeat_every:g} "
            "one late beat would pass for death; make dead_after at least twice heartbeat_every"
        )


def _identity(value: object) -> str:
    text = _text(value)
    _refuse_controls(text, "this")
    if len(text) > LONGEST_IDENTITY:
        raise InvalidOption(f"{text[:20]!r}... has {len(text)} characters; at most {LONGEST_IDENTITY} are possible")
    return text


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _YES or word in _NO:
        return word in _YES
    raise InvalidOption(f"{value!r} is neither true nor false")


def _folder(value: object) -> Path | None:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _YES | _NO):
        return Path(EMBEDDED_FOLDER) if _flag(value) else None
    return value if isinstance(value, Path) else Path(_text(value)).expanduser()


def _choice(choices: Sequence[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value).lower()
        if text not in choices:
            raise InvalidOption(f"{value!r} is not one of {', '.join(choices)}{nearest(text, choices)}")
        return text

    return read


_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


READ: Final[Mapping[str, Callable[[object], object]]] = {
    "database_url": _url,
    "listen_url": _url,
    "pooler": _flag,
    "embedded": _folder,
    "queues": parse_queues,
    "imports": _names,
    "allow": _names,
    "crontab": _crontab,
    "schema": _schemas,
    "translate": _translate,
    "name": _identity,
    "node": _identity,
    "grace": span,
    "heartbeat_every": _interval,
    "dead_after": _interval,
    "abandoned_after": _interval,
    "keep_young_after": _interval_or_none,
    "unknown_after": _above_zero("0 seconds leave no other program the time to take a job; write for example 60"),
    "metrics": _flag,
    "prune": read_prune,
    "middleware": _attributes,
    "health_port": _port,
    "health_host": _identity,
    "blocked_after": _above_zero("every loop is blocked for 0 seconds; write for example 1"),
    "sessions": _attribute,
    "idle_in_transaction_after": _above_zero("every transaction is idle for 0 seconds; write for example 30"),
    "poll_every": _interval,
    "stage_every": _interval,
    "processes": _count,
    "process_pool": _count,
    "recycle_after": _count,
    "until_idle": _flag,
    "dry_run": _flag,
    "log_level": _choice(LOG_LEVELS),
    "log_format": _choice(LOG_FORMATS),
}
