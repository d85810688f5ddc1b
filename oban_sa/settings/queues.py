"""Queues, how many jobs of each run at once, and their limits: as a text, a table of a file, a keyword of `Runner`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from oban_sa.describe.choices import is_whole
from oban_sa.describe.exceptions import shown
from oban_sa.errors import InvalidOption
from oban_sa.settings.parsers import refuse_controls

if TYPE_CHECKING:  # where no queue has limits, nothing of them is loaded
    from oban_sa.jobs.limits import Limits, Queue

Served: TypeAlias = "Queue | int"
"""How many jobs of a queue run at once on a node: a number, or a `Queue` where it has other limits too."""

DEFAULT_QUEUES: Final[Mapping[str, Served]] = {"default": 10}

LONGEST_NAME: Final = 127
"""Characters of the name of a queue, in the family's tables."""

MOST: Final = 100_000
"""Jobs of a queue at once on a node."""

_EXAMPLE: Final = "write for example default:10,mailers:5"


def parse_queues(value: object) -> dict[str, Served]:
    """Return queues and their limits from `default:10,mailers:5`, or from a table such as TOML's `{default = 10}`.

    In a table a queue may have a table of its own: `{limit = 20, global_limit = 50}`.
    """
    if isinstance(value, str):
        return _queues_from_text(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[object, object]", value)
        if not table:
            raise InvalidOption(f"no queue is named; {_EXAMPLE}")
        return {queue_name(name): _queue_of(str(name), limit) for name, limit in table.items()}
    raise InvalidOption(f"{value!r} names no queues; {_EXAMPLE}")


def at_once(queues: Mapping[str, Served]) -> dict[str, int]:
    """Return how many jobs of each queue run at once on a node."""
    return {name: queue if isinstance(queue, int) else queue.limit for name, queue in queues.items()}


def with_limit(queue: Served, limit: int) -> Served:
    """Return the queue with another number of jobs at once on a node."""
    return limit if isinstance(queue, int) else replace(queue, limit=limit)


def limits_of(queues: Mapping[str, Served]) -> dict[str, Limits]:
    """Return what holds for all nodes together, of the queues for which something does."""
    return {
        name: limits
        for name, queue in queues.items()
        if not isinstance(queue, int) and (limits := queue.limits) is not None
    }


def _queues_from_text(text: str) -> dict[str, Served]:
    queues: dict[str, Served] = {}
    if not text.strip():
        raise InvalidOption(f"no queue is named; {_EXAMPLE}")
    for part in (part.strip() for part in text.split(",")):
        name, colon, limit = part.partition(":")
        if not part:
            raise InvalidOption(f"there is nothing between two commas of {text!r}; {_EXAMPLE}")
        if not colon:
            named = re.split(r"[\s=;]", part)[0] or "default"
            raise InvalidOption(f"{part!r} is not a queue and its limit; write {named}:10, several with commas between")
        name = queue_name(name.strip())
        if name in queues:
            raise InvalidOption(f"the queue {name!r} is named twice")
        if not re.fullmatch(r"-?[\w.]*", limit.strip()):
            raise InvalidOption(
                f"{part!r} is not a queue and how many of its jobs run at once on each node; write for example "
                "default:10,mailers:5. Limits of all nodes together are said in oban.toml, or by `queues limit`"
            )
        queues[name] = _queue_of(name, limit.strip())
    return queues


def queue_name(name: object) -> str:
    """Accept the name of a queue that a runner serves."""
    if not isinstance(name, str):
        raise InvalidOption(f"{shown(name, 60)} is not the name of a queue, which is a text; {_EXAMPLE}")
    if not name.strip():
        raise InvalidOption(f"a queue has no name; {_EXAMPLE}")
    if len(name) > LONGEST_NAME:
        raise InvalidOption(
            f"the queue {name[:20]!r}... has a name of {len(name)} characters; at most {LONGEST_NAME} are possible"
        )
    refuse_controls(name, "the name of a queue")
    return name


def queue_served(name: str, given: object) -> Served:
    """Accept how many jobs of a queue run at once on a node, or a `Queue`."""
    if not isinstance(given, int):
        from oban_sa.jobs.limits import Queue

        if isinstance(given, Queue):
            return given
    if not is_whole(given):
        raise InvalidOption(
            f"the queue {name!r} has the limit {shown(given, 60)}, which is not a whole number; write {name}:10"
        )
    if not 1 <= given <= MOST:
        raise InvalidOption(f"the queue {name!r} has the limit {shown(given, 60)}; it runs 1 to {MOST} jobs at once")
    return given


def _queue_of(name: str, given: object) -> Served:
    if isinstance(given, str) and re.fullmatch(r"\d{1,9}", given):
        given = int(given)
    if isinstance(given, Mapping):
        return _queue_from_table(name, cast("Mapping[str, object]", given))
    return queue_served(name, given)


def _queue_from_table(name: str, table: Mapping[str, object]) -> Served:
    options = {str(key).replace("-", "_"): value for key, value in table.items()}
    limit = options.get("limit", 10)
    if not is_whole(limit):
        raise InvalidOption(
            f"the queue {name!r} has the limit {shown(limit, 60)}, which is not a whole number; write limit = 10"
        )
    queue_served(name, limit)
    if not options.keys() - {"limit"}:
        return limit
    from oban_sa.jobs.limits import QUEUE_OPTIONS, queue_from_table, queue_option_instead

    for key in options:
        if key not in QUEUE_OPTIONS:
            hint = queue_option_instead(key, QUEUE_OPTIONS)
            raise InvalidOption(f"the queue {name!r} has an unknown option {key!r}{hint}")
    try:
        return queue_from_table({"limit": 10, **options})
    except InvalidOption as error:
        raise type(error)(f"the queue {name!r}: {error}") from None
