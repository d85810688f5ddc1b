"""The messages that nodes send each other by NOTIFY, and their encoding.

Ours are plain JSON objects, compressed only where they would not fit. Messages that arrive may come from any member of
the Oban family, in any of its encodings, or from any other program.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import orjson

from oban_sa.errors import InvalidOption

Message: TypeAlias = dict[str, str | int]
"""A message of ours, as JSON."""

PLAIN_LIMIT: Final = 7_900
"""Bytes up to which a message is sent as plain JSON; PostgreSQL accepts payloads shorter than 8,000."""

_PAYLOAD_LIMIT: Final = 7_999
_CHANNEL_LIMIT: Final = 63
_DECOMPRESSED_LIMIT: Final = 1_000_000
_GZIP: Final = 16 + zlib.MAX_WBITS

ANYONE: Final = "any"
"""The ident that addresses all nodes."""

EVERY: Final = "*"
"""The name for all queues, in signals and in the table `oban_sa_queues`."""


NODES: Final = "nodes"
"""The channel on which only nodes of ours listen: to questions, which have a token `asked`, to `limited` and `noted`.

A `signal` with a key that they don't know kills producers of Elixir. One channel for both, as each is a round trip of
every start.
"""


@lru_cache(maxsize=100)  # each flush with jobs asks for the same one
def channel(schema: str, short: str) -> str:
    """Return the name of the channel `short` ("insert", "signal", ...) in `schema`: "public.oban_insert".

    The name contains a dot, so LISTEN needs it quoted. Raises `InvalidOption` where it is longer than 63 bytes.
    """
    name = f"{schema}.oban_{short}"
    if len(name.encode("utf-8", "replace")) > _CHANNEL_LIMIT:
        raise InvalidOption(
            f"the schema name {schema!r} is too long to notify in: the channel {name!r} has more than {_CHANNEL_LIMIT} "
            "bytes; use a schema name of at most 49 bytes"
        )
    return name


def encode(payload: Mapping[str, object]) -> str:
    """Return a message as text for NOTIFY: JSON, or above 7,900 bytes gzip in base64.

    Raises `ValueError` where that doesn't fit either.
    """
    plain = orjson.dumps(payload if isinstance(payload, dict) else dict(payload))
    if len(plain) <= PLAIN_LIMIT:
        return plain.decode()
    packed = base64.b64encode(gzip.compress(plain, mtime=0))
    if len(packed) > _PAYLOAD_LIMIT:
        raise ValueError(
            f"a message of {len(plain)} bytes takes {len(packed)} when compressed, and NOTIFY carries "
            f"{_PAYLOAD_LIMIT}; split it"
        )
    return packed.decode()


def decode(text: str) -> dict[str, object] | None:
    """Return the JSON object of a message, or None for any other text; never raises.

    Reads plain JSON, gzip in base64, and the latter after a prefix `Z:`.
    """
    try:
        if len(text) > _DECOMPRESSED_LIMIT:
            return None
        plain = text if text.lstrip().startswith("{") else _unpacked(text.removeprefix("Z:"))
        payload: dict[str, object] = orjson.loads(plain)
    except Exception:  # any program may send any text; the listener must go on
        return None
    return payload if type(payload) is dict else None


def _unpacked(body: str) -> bytes:
    binary = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    unpacker = zlib.decompressobj(_GZIP)
    plain = unpacker.decompress(binary, _DECOMPRESSED_LIMIT)
    if not unpacker.eof:
        raise ValueError("truncated, or larger than any message is")
    return plain


@dataclass(slots=True)
class News:
    """What a message on `insert` says of its queue, for nodes of this kind; others read no more than the queue."""

    jobs: int | None = 0
    """How many jobs became available, at least; None where it is not said, as by other members of the family."""
    due: bool = False
    """Whether jobs were scheduled that are due before stagers would look by themselves."""
    turn: int = 0
    """A number that differs from message to message, by which nodes take turns."""


def insert(queue: str, news: News | None = None) -> Message:
    """Return the message for `insert` that a queue has got available jobs, or some that are due soon."""
    if news is None or news.jobs is None:
        return {"queue": queue, "due": 1} if news is not None and news.due else {"queue": queue}
    due: Message = {"due": 1} if news.due else {}
    return {"queue": queue, "jobs": news.jobs, **due, "turn": news.turn}


def news_of(payload: Mapping[str, object]) -> News:
    """Return what a message on `insert` says beside the queue; a value that makes no sense counts as not said."""
    jobs, turn = payload.get("jobs"), payload.get("turn")
    counted = type(jobs) is int and type(turn) is int and jobs >= 0 and turn >= 0
    return News(jobs if counted else None, payload.get("due") == 1, turn if counted else 0)  # type: ignore[arg-type]


def queue_of(payload: Mapping[str, object]) -> str:
    """Return the queue of a message on `insert`; raises `ValueError` where it names none."""
    queue = payload.get("queue")
    if not isinstance(queue, str) or not queue:
        raise ValueError("no queue is named")
    return queue


def pause(queue: str, *, ident: str = ANYONE) -> Message:
    """Return the message for `signal` that pauses a queue, or all with `"*"`."""
    return {"action": "pause", "queue": queue, "ident": ident}


def resume(queue: str, *, ident: str = ANYONE) -> Message:
    """Return the message for `signal` that resumes a queue, or all with `"*"`."""
    return {"action": "resume", "queue": queue, "ident": ident}


def scale(queue: str, limit: int, *, ident: str = ANYONE, node: str | None = None) -> Message:
    """Return the message for `signal` that sets how many jobs of a queue run at once on each node.

    `node` is given with the ident of one node. Nodes of Elixir put other keys into the meta of the producer, and crash
    on unknown ones.
    """
    payload: Message = {"action": "scale", "queue": queue, "ident": ident, "limit": limit}
    if node is not None:
        payload["node"] = node
    return payload


def start(queue: str, limit: int, *, ident: str = ANYONE, paused: bool = False) -> Message:
    """Return the message for `signal` that makes nodes start working on a queue."""
    payload: Message = {"action": "start", "queue": queue, "ident": ident, "limit": limit}
    if paused:
        payload["paused"] = True
    return payload


def stop(queue: str, *, ident: str = ANYONE) -> Message:
    """Return the message for `signal` that makes nodes stop working on a queue."""
    return {"action": "stop", "queue": queue, "ident": ident}


def pkill(job_id: int) -> Message:
    """Return the message for `signal` that cancels a job on the node that runs it; it names no node and no queue."""
    return {"action": "pkill", "job_id": job_id}


def resign(name: str, node: str) -> Message:
    """Return the message for `leader` that a node gave up its lease, so that others don't wait for the end of it."""
    return {"action": "resign", "name": name, "node": node}


def limited(queue: str, name: str) -> Message:
    """Return the message for `NODES` that the limits of a queue were decided anew for the nodes of an instance."""
    return {"queue": queue, "name": name}


def ident(name: str, node: str) -> str:
    """Return the ident that addresses one node of one instance: "Oban.web.1"."""
    return f"{name}.{node}"


def addressed(payload: Mapping[str, object], name: str, node: str) -> bool:
    """Return whether a signal is for this node: with the ident "any" or none it is for all nodes."""
    wanted = payload.get("ident", ANYONE)
    return wanted in (ANYONE, ident(name, node))
