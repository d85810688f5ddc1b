"""Telling other nodes something over NOTIFY, on whichever connection and driver."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from sqlalchemy import JSON, Select, Text, bindparam, cast, func, select

from oban_sa.jobs import values
from oban_sa.wire import messages
from oban_sa.wire.messages import News

# All payloads of a statement travel in one parameter, so that its text and its plan stay the same however many
# there are, and so that every driver can send it: arrays of text differ between them, a text does not.
NOTIFY: Final[Select[object]] = select(
    func.pg_notify(
        bindparam("channel", type_=Text),
        func.json_array_elements_text(cast(bindparam("payloads", type_=Text), JSON)).column_valued("payload"),
    )
)
"""Send each of `payloads` on `channel`, when and if the transaction commits; `insertions()` gives both."""


NOTIFY_ONE: Final = func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text))
"""The same of one payload, as a value of a row that another statement answers: the server has no list to read."""

TURNS: Final = 1_000_000
"""Turns are counted up to this number, and then begin again."""


class Notice(NamedTuple):
    """What is to be announced: a channel, and what is sent on it, one or more."""

    channel: str
    payloads: tuple[str, ...]

    def parameters(self) -> dict[str, str]:
        """Return the parameters of `NOTIFY`."""
        return {"channel": self.channel, "payloads": values.dumps(self.payloads)}

    def parameters_of_one(self) -> dict[str, str]:
        """Return the parameters of `NOTIFY_ONE`; raises `ValueError` where there are several payloads."""
        [payload] = self.payloads
        return {"channel": self.channel, "payload": payload}


def notify(channel: str, payloads: Iterable[Mapping[str, object]]) -> Select[object]:
    """Send each of `payloads` on `channel`, when and if the transaction commits."""
    return NOTIFY.params(_parameters(channel, payloads))


def announce(queues: Iterable[str], schema: str) -> Select[object]:
    """Tell every runner on `schema` that `queues` received available jobs: one notification for each."""
    return NOTIFY.params(insertions(queues, schema))


def insertions(queues: Iterable[str], schema: str) -> dict[str, str]:
    """Return the parameters with which `NOTIFY` tells every runner on `schema` that `queues` received available jobs.

    Raises `InvalidOption` where the name of the schema is too long for a channel.
    """
    return _parameters(messages.channel(schema, "insert"), [messages.insert(queue) for queue in queues])


def counted(news: Mapping[str, News], schema: str) -> Notice:
    """Return the same for queues of which it is known how many jobs they received; each message gets the next turn.

    Raises `InvalidOption` as `insertions` does.
    """
    payloads: list[str] = []
    for queue, each in news.items():
        text, is_whole = _before_turn(queue, each.jobs, each.due)
        payloads.append(text if is_whole else f"{text}{next(_turns) % TURNS}}}")
    return Notice(messages.channel(schema, "insert"), tuple(payloads))


_turns = itertools.count(random.randrange(TURNS))


@lru_cache(maxsize=1_000)  # a program announces the same few queues again and again
def _before_turn(queue: str, jobs: int | None, due: bool) -> tuple[str, bool]:
    """Return the JSON of a message up to its turn, which stands last; or all of it, and True, where it has none."""
    text = messages.encode(messages.insert(queue, News(jobs, due)))
    return (text, True) if jobs is None else (text.removesuffix("0}"), False)


def _parameters(channel: str, payloads: Iterable[Mapping[str, object]]) -> dict[str, str]:
    return {"channel": channel, "payloads": values.dumps([messages.encode(each) for each in payloads])}
