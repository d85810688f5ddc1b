"""What nodes say to each other over NOTIFY, and its encoding.

Ours are plain JSON objects, compressed only where they would not fit. What is read may come from any member of
the Oban family, in any of its forms, or from a stranger.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from oban_sa.errors import InvalidOption

PLAIN_LIMIT: Final = 7_900
"""Bytes up to which a message is sent as plain JSON; PostgreSQL takes payloads shorter than 8,000."""

_PAYLOAD_LIMIT: Final = 7_999
_CHANNEL_LIMIT: Final = 63
_DECOMPRESSED_LIMIT: Final = 1_000_000
_GZIP: Final = 16 + zlib.MAX_WBITS

ANYONE: Final = "any"
"""The ident that addresses every node."""

EVERY: Final = "*"
"""What stands for every queue, in signals and in the table of what was decided."""


def channel(schema: str, short: str) -> str:
    """Return the name of the channel `short` ("insert", "signal", ...) in `schema`: "public.oban_insert".

    The name contains a dot, so LISTEN needs it quoted. Raises `InvalidOption` where PostgreSQL finds it too long.
    """
    name = f"{schema}.oban_{short}"
    if len(name.encode("utf-8", "replace")) > _CHANNEL_LIMIT:
        raise InvalidOption(
            f"the schema name {schema!r} is too long to notify in: the channel {name!r} has more than {_CHANNEL_LIMIT} "
            "bytes; use a schema name of at most 49 bytes"
        )
    return name


def encode(payload: Mapping[str, Any]) -> str:
    """Return a message as the text that is sent: JSON, above 7.9 kB base64 of gzip.

    Raises `ValueError` where it doesn't fit even so.
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


def decode(text: str) -> dict[str, Any] | None:
    """Return the object that a message holds, or None where it holds none; never raises.

    Reads plain JSON, base64 of gzip, and the same behind `Z:`.
    """
    try:
        if len(text) > _DECOMPRESSED_LIMIT:
            return None
        plain = text if text.lstrip().startswith("{") else _unpacked(text.removeprefix("Z:"))
        payload: dict[str, Any] = orjson.loads(plain)
    except Exception:  # whatever arrives on a channel, the listener survives it
        return None
    return payload if type(payload) is dict else None


def _unpacked(body: str) -> bytes:
    binary = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    unpacker = zlib.decompressobj(_GZIP)
    plain = unpacker.decompress(binary, _DECOMPRESSED_LIMIT)
    if not unpacker.eof:
        raise ValueError("truncated, or larger than any message is")
    return plain


def insert(queue: str) -> dict[str, Any]:
    """Say on `insert` that a queue has received available jobs."""
    return {"queue": queue}


def queue_of(payload: Mapping[str, Any]) -> str:
    """Return the queue that a message on `insert` is about; raises `ValueError` where it names none."""
    queue = payload.get("queue")
    if not isinstance(queue, str) or not queue:
        raise ValueError("no queue is named")
    return queue


def pause(queue: str, *, ident: str = ANYONE) -> dict[str, Any]:
    """Say on `signal` that a queue starts no more jobs; `"*"` is every queue."""
    return {"action": "pause", "queue": queue, "ident": ident}


def resume(queue: str, *, ident: str = ANYONE) -> dict[str, Any]:
    """Say on `signal` that a queue starts jobs again; `"*"` is every queue."""
    return {"action": "resume", "queue": queue, "ident": ident}


def scale(queue: str, limit: int, *, ident: str = ANYONE, node: str | None = None) -> dict[str, Any]:
    """Say on `signal` how many jobs of a queue run at once on each node; `node` stands beside an ident of one node.

    Other keys would become part of the producer's meta on Elixir nodes, and unknown ones would crash it.
    """
    payload: dict[str, Any] = {"action": "scale", "queue": queue, "ident": ident, "limit": limit}
    if node is not None:
        payload["node"] = node
    return payload


def start(queue: str, limit: int, *, ident: str = ANYONE, paused: bool = False) -> dict[str, Any]:
    """Say on `signal` that a node starts working on a queue it may not know yet."""
    payload: dict[str, Any] = {"action": "start", "queue": queue, "ident": ident, "limit": limit}
    if paused:
        payload["paused"] = True
    return payload


def stop(queue: str, *, ident: str = ANYONE) -> dict[str, Any]:
    """Say on `signal` that a node stops working on a queue."""
    return {"action": "stop", "queue": queue, "ident": ident}


def pkill(job_id: int) -> dict[str, Any]:
    """Say on `signal` that whichever node runs this job cancels it; it names no node and no queue."""
    return {"action": "pkill", "job_id": job_id}


def resign(name: str, node: str) -> dict[str, Any]:
    """Say on `leader` that a node gave up its leadership, so that others needn't wait for its lease to end."""
    return {"action": "resign", "name": name, "node": node}


def ident(name: str, node: str) -> str:
    """Return what addresses one node of one instance: "Oban.web.1"."""
    return f"{name}.{node}"


def addressed(payload: Mapping[str, Any], name: str, node: str) -> bool:
    """Tell whether a signal is meant for this node; without an ident it is meant for all, with an odd one for none."""
    wanted = payload.get("ident", ANYONE)
    return wanted in (ANYONE, ident(name, node))
