"""The rules of `Runner`'s keywords where they differ from those of flags, variables and files.

Python has numbers, lists and None of its own, so a keyword takes no text for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from oban_sa.describe.choices import is_whole
from oban_sa.describe.exceptions import shown
from oban_sa.errors import InvalidOption
from oban_sa.jobs.cron_entry import CronEntry, entries
from oban_sa.settings import parsers
from oban_sa.settings.queues import DEFAULT_QUEUES, Served, queue_name, queue_served


def queues(value: object) -> dict[str, Served]:
    """Take a table of queues and limits; None is the default."""
    if value is None:
        return dict(DEFAULT_QUEUES)
    if not isinstance(value, Mapping):
        raise InvalidOption(
            f'queues have limits, and {shown(value, 60)} says none; write for example queues={{"default": 10}}'
        )
    table = cast("Mapping[object, object]", value)
    if not table:
        raise InvalidOption('a runner needs at least one queue; write for example queues={"default": 10}')
    return {queue_name(name): queue_served(str(name), limit) for name, limit in table.items()}


def schemas(value: object) -> tuple[str, ...]:
    """Take the name of one schema."""
    schema = parsers.schema(value)
    if "," in schema:
        raise InvalidOption(f"a Runner works in one schema, and {schema!r} are several; write Runners(...) of one each")
    return (schema,)


def modules(value: object) -> tuple[str, ...]:
    """Take a list of names of modules."""
    given = _listed(value, '["myapp.jobs"]')
    return parsers.modules(given) if given else ()


def translate(value: object) -> tuple[str | None, ...]:
    """Take a list of schemas as models have them; None is for tables that name none."""
    given = _listed(value, '["tenant", None]')
    return parsers.translate(given) if given else ()


def switch(value: object) -> bool:
    """Take True or False, and no word for them."""
    if not isinstance(value, bool):
        raise InvalidOption(f"{shown(value, 60)} is neither True nor False")
    return value


def port(value: object) -> int:
    """Take the number of a port, 0 for one that the system chooses."""
    if not is_whole(value, 0, 65535):
        raise InvalidOption(f"health_port is the number of a port, such as 8080, not {value!r}")
    return value


def crontab(value: object) -> tuple[CronEntry, ...]:
    """Take a list of entries."""
    said = shown(value, 60)
    if isinstance(value, (str, bytes, CronEntry, Mapping)) or not isinstance(value, Iterable):
        what = "is one entry" if isinstance(value, (CronEntry, Mapping)) else "is no list of entries"
        raise InvalidOption(f"{said} {what}; write for example [CronEntry('@daily', MyWorker)]")
    return entries(list(cast("Iterable[object]", value)))


def _listed(value: object, example: str) -> tuple[object, ...]:
    said = shown(value, 60)
    if isinstance(value, (str, bytes)):  # each of its characters would be taken for one
        raise InvalidOption(f"{said} is one text, and this is a list; write [{said}]")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise InvalidOption(f"{said} is no list; write for example {example}")
    return tuple(cast("Iterable[object]", value))
