"""What `Runner(...)` may be told: the rules of the settings, under the names of its keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from oban_sa import readings
from oban_sa.cronentry import CronEntry, entries
from oban_sa.errors import InvalidOption
from oban_sa.failures import shown
from oban_sa.readings import READ
from oban_sa.workers.registry import Registry
from oban_sa.workers.registry import registry as default_registry


def checked(name: str, value: Any) -> Any:
    """Return the value of a keyword as it is kept: spans as seconds, lists as tuples.

    Raises `InvalidOption` with the name of the keyword and what to write instead.
    """
    try:
        return _KEYWORDS[name](value)
    except InvalidOption as error:
        message = str(error)
        raise type(error)(message if message.startswith(f"{name}: ") else f"{name}: {message}") from None


def or_none(name: str, value: Any) -> Any:
    """Return the same of a keyword that may be None."""
    return None if value is None else checked(name, value)


def registry(given: Any) -> Registry:
    """Accept where workers are looked up; None is where `@worker` and `@job` put them."""
    if given is None:
        return default_registry
    if not isinstance(given, Registry):
        raise InvalidOption(f"registry is a Registry, not {shown(given, 60)}")
    return given


def _listed(example: str, read: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def checked_list(value: object) -> tuple[Any, ...]:
        said = shown(value, 60)
        if isinstance(value, (str, bytes)):  # each of its characters would be taken for one
            raise InvalidOption(f"{said} is one text, and this is a list; write [{said}]")
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            raise InvalidOption(f"{said} is no list; write for example {example}")
        found = tuple(cast("Iterable[object]", value))
        return tuple(read(found)) if found else ()

    return checked_list


def _queues(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise InvalidOption(
            f'queues have limits, and {shown(value, 60)} says none; write for example queues={{"default": 10}}'
        )
    table = cast("Mapping[object, object]", value)
    if not table:
        raise InvalidOption('a runner needs at least one queue; write for example queues={"default": 10}')
    return {readings.queue_name(name): readings.queue_limit(str(name), limit) for name, limit in table.items()}


def _schema(value: object) -> str:
    schema = readings.schema(value)
    if "," in schema:
        raise InvalidOption(f"a Runner works in one schema, and {schema!r} are several; write Runners(...) of one each")
    return schema


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"{shown(value, 60)} is neither True nor False")
    return value


def _crontab(value: object) -> list[CronEntry]:
    said = shown(value, 60)
    if isinstance(value, (str, bytes, CronEntry, Mapping)) or not isinstance(value, Iterable):
        what = "is one entry" if isinstance(value, (CronEntry, Mapping)) else "is no list of entries"
        raise InvalidOption(f"{said} {what}; write for example [CronEntry('@daily', MyWorker)]")
    return list(entries(list(cast("Iterable[object]", value))))


_KEYWORDS: Final[Mapping[str, Callable[[object], Any]]] = {
    **{
        name: READ[name]
        for name in (
            "name",
            "node",
            "grace",
            "heartbeat_every",
            "dead_after",
            "poll_every",
            "stage_every",
            "abandoned_after",
            "keep_young_after",
            "unknown_after",
            "listen_url",
            "prune",
            "health_host",
            "blocked_after",
            "idle_in_transaction_after",
        )
    },
    "queues": _queues,
    "schema": _schema,
    "metrics": _switch,
    "crontab": _crontab,
    "allow": _listed('["myapp.jobs"]', cast("Any", READ["allow"])),
    "imports": _listed('["myapp.jobs"]', cast("Any", READ["imports"])),
    "translate": _listed('["tenant", None]', cast("Any", READ["translate"])),
    "connections": readings.count,
    "process_pool": readings.count,
    "recycle_after": readings.count,
}
