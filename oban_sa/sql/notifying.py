"""Telling other nodes something over NOTIFY, on whichever connection and driver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import JSON, Select, Text, bindparam, cast, func, select

from oban_sa import messages, values

# All payloads of a statement travel in one parameter, so that its text and its plan stay the same however many
# there are, and so that every driver can send it: arrays of text differ between them, a text does not.
NOTIFY: Final = select(
    func.pg_notify(
        bindparam("channel", type_=Text),
        func.json_array_elements_text(cast(bindparam("payloads", type_=Text), JSON)).column_valued("payload"),
    )
)
"""Send each of `payloads` on `channel`, when and if the transaction commits; `insertions()` gives both."""


def notify(channel: str, payloads: Iterable[Mapping[str, Any]]) -> Select[Any]:
    """Send each of `payloads` on `channel`, when and if the transaction commits."""
    return NOTIFY.params(_parameters(channel, payloads))


def announce(queues: Iterable[str], schema: str) -> Select[Any]:
    """Tell every runner on `schema` that `queues` received available jobs: one notification for each."""
    return NOTIFY.params(insertions(queues, schema))


def insertions(queues: Iterable[str], schema: str) -> dict[str, str]:
    """Return the parameters with which `NOTIFY` tells every runner on `schema` that `queues` received available jobs.

    Raises `InvalidOption` where the name of the schema is too long for a channel.
    """
    return _parameters(messages.channel(schema, "insert"), [messages.insert(queue) for queue in queues])


def _parameters(channel: str, payloads: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {"channel": channel, "payloads": values.dumps([messages.encode(each) for each in payloads])}
