"""The query language of `jobs list` and the dashboard: `state:discarded queue:mailers args.order.id:17`.

    query  = { [ "-" ] term }                      all of the terms have to be true; "-" means that one is not
    term   = field ":" value { "," value }         one of the values is enough
    field  = state queue worker tag node priority id error since until, args.PATH, meta.PATH
    value  = letters up to a blank or a comma, or a text in double quotes, in which \\" is a quote

A number alone is the id of a job, and any other word alone a worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from oban_sa.client.filters import Filters, contained, when
from oban_sa.errors import InvalidOption, nearest, shown
from oban_sa.jobs.states import JobState
from oban_sa.sql.wanted import Term, Wanted

LONGEST: Final = 2_000
"""Characters that a query may have."""
MOST_VALUES: Final = 1_000
"""Values that one term may have."""

FIELDS: Final = ("state", "queue", "worker", "tag", "node", "priority", "id", "error", "since", "until", "args", "meta")
LISTED: Final = "state, queue, worker, tag, node, priority, id, error, since, until, args.KEY and meta.KEY"

_LARGEST_ID: Final = 2**63 - 1
_LARGEST_INTEGER: Final = 2**31 - 1
_DEEPEST: Final = 50
_TOKEN: Final = re.compile(r'(?=\S)(?:"(?:[^"\\]|\\.)*"|[^\s"])*(")?')
_ASSIGNED: Final = re.compile(r"([\w.]+)=")
_VALUE: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class _Reading:
    """What was read so far."""

    states: tuple[JobState, ...] = ()
    queues: tuple[str, ...] = ()
    priorities: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    terms: list[Term] = field(default_factory=list[Term])
    given: set[str] = field(default_factory=set[str])

    def once(self, name: str, instead: str) -> None:
        if name in self.given:
            raise InvalidOption(f"{name}: stands twice, and no job could have both; {instead}")
        self.given.add(name)

    def filters(self) -> Filters:
        wanted = Wanted(
            states=self.states,
            queues=self.queues,
            priorities=self.priorities,
            ids=self.ids,
            terms=tuple(self.terms),
        )
        return Filters(wanted, self.since, self.until)


def read_query(text: str) -> Filters:
    """Read a query; raises `InvalidOption`, which names the word that is wrong and what to write instead."""
    if len(text) > LONGEST:
        raise InvalidOption(f"the query has {len(text):,} characters, and at most {LONGEST:,} are read")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidOption("the query contains a character that no text in PostgreSQL can hold")
    reading = _Reading()
    for found in _TOKEN.finditer(text):
        if found[1]:
            raise InvalidOption(
                f'a quote is never closed: {shown(text[found.start() :], 60)}; write \\" for a quote inside'
            )
        _term(reading, found[0])
    return reading.filters()


def paths(filters: Filters) -> list[Term]:
    """Return the terms about what args and meta contain, whose values are JSON texts."""
    wanted = filters.wanted
    contained = [Term("args", one_of) for one_of in wanted.args] + [Term("meta", one_of) for one_of in wanted.meta]
    return contained + [term for term in wanted.terms if term.of in ("args", "meta")]


def replaced(text: str, name: str, value: str | None) -> str:
    """Return a query with its terms of a field replaced by one of this value, or left out where that is None."""
    tokens = [found[0] for found in _TOKEN.finditer(text)]
    kept = [token for token in tokens if not token.lower().lstrip("-").startswith(f"{name}:")]
    return " ".join([*kept, *([] if value is None else [f"{name}:{quoted(value)}"])])


def quoted(value: str) -> str:
    """Return a value as a query has it: in quotes where it needs some."""
    if value and not re.search(r'[\s,"\\]', value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _term(reading: _Reading, token: str) -> None:
    negated = token.startswith("-") and len(token) > 1
    word = token[1:] if negated else token
    name, colon, rest = ("", "", word) if word.startswith('"') else word.partition(":")
    if not colon:
        if (assigned := _ASSIGNED.match(word)) and assigned[1].lower().partition(".")[0] in FIELDS:
            raise InvalidOption(
                f"{shown(token, 60)} would be the name of a worker; write {assigned[1]}:{word[assigned.end() :]}"
            )
        name, rest = ("id" if word.isascii() and word.isdigit() else "worker"), word
    values = [_unquoted(value) for value in _VALUE.findall(rest)]
    base, dot, path = name.partition(".")
    base = base.lower()
    if base not in FIELDS:
        raise InvalidOption(f"{shown(name, 60)} is no field of a job{nearest(base, FIELDS)} ({LISTED})")
    if base in ("args", "meta"):
        if not path or not all(path.split(".")) or path.count(".") >= _DEEPEST:
            raise InvalidOption(f"{shown(name, 60)} says no key; write for example {base}.order.id:17")
    elif dot:
        raise InvalidOption(f"{shown(name, 60)} has no keys inside, only args and meta have; write {base}:...")
    if not values or "" in values:
        raise InvalidOption(f"{shown(token, 60)} says no value; write for example {_EXAMPLES[base]}")
    if len(values) > MOST_VALUES:
        raise InvalidOption(f"{name}: has {len(values):,} values, and at most {MOST_VALUES:,} are read")
    if base == "args" or base == "meta":
        texts = [text for value in values for text in contained(path, value)]
        if any("\\u0000" in text for text in texts):
            raise InvalidOption(f"{shown(token, 60)} contains a character that no text in PostgreSQL can hold")
        reading.terms.append(Term("args" if base == "args" else "meta", tuple(dict.fromkeys(texts)), negated))
        return
    _READERS[base](reading, list(dict.fromkeys(values)), negated)


def _unquoted(value: str) -> str:
    return _QUOTED.sub(lambda found: re.sub(r"\\(.)", r"\1", found[1]), value)


def _state(reading: _Reading, values: Sequence[str], negated: bool) -> None:
    choices = [state.value for state in JobState]
    for value in values:
        if value.lower() not in choices:
            raise InvalidOption(
                f"{shown(value, 60)} is no state{nearest(value.lower(), choices)} ({', '.join(choices)})"
            )
    said = {JobState(value.lower()) for value in values}
    allowed = set(reading.states or JobState) & (set(JobState) - said if negated else said)
    if not allowed:
        raise InvalidOption("no job could be in all these states at once; write state:available,executing for either")
    reading.states = tuple(state for state in JobState if state in allowed)


def _queue(reading: _Reading, values: Sequence[str], negated: bool) -> None:
    if negated:
        reading.terms.append(Term("queue", tuple(values), negated=True))
        return
    reading.once("queue", "write queue:mailers,reports for either")
    reading.queues = tuple(values)


def _numbers(name: Literal["id", "priority"], values: Sequence[str], most: int) -> tuple[int, ...]:
    for value in values:
        if not value.isascii() or not value.isdigit() or len(value) > 19 or int(value) > most:
            raise InvalidOption(f"{shown(value, 60)} is no {name}, which is a number such as {_EXAMPLES[name]}")
    return tuple(int(value) for value in values)


def _id(reading: _Reading, values: Sequence[str], negated: bool) -> None:
    numbers = _numbers("id", values, _LARGEST_ID)
    if negated:
        reading.terms.append(Term("id", tuple(map(str, numbers)), negated=True))
        return
    reading.once("id", "write id:12,13 for either")
    reading.ids = numbers


def _priority(reading: _Reading, values: Sequence[str], negated: bool) -> None:
    numbers = _numbers("priority", values, _LARGEST_INTEGER)
    if negated:
        reading.terms.append(Term("priority", tuple(map(str, numbers)), negated=True))
        return
    reading.once("priority", "write priority:0,1 for either")
    reading.priorities = numbers


def _moment(name: Literal["since", "until"]) -> Callable[[_Reading, Sequence[str], bool], None]:
    def read(reading: _Reading, values: Sequence[str], negated: bool) -> None:
        if negated or len(values) != 1:
            raise InvalidOption(f"{name}: takes one moment or span, such as {_EXAMPLES[name]}")
        reading.once(name, "leave one of them out")
        setattr(reading, name, when(values[0]))

    return read


def _looked_for(of: Literal["worker", "tag", "node", "error"]) -> Callable[[_Reading, Sequence[str], bool], None]:
    def read(reading: _Reading, values: Sequence[str], negated: bool) -> None:
        # Tags are kept in lower case.
        texts = tuple(value.lower() for value in values) if of == "tag" else tuple(values)
        reading.terms.append(Term(of, texts, negated))

    return read


_READERS: Final[dict[str, Callable[[_Reading, Sequence[str], bool], None]]] = {
    "state": _state,
    "queue": _queue,
    "id": _id,
    "priority": _priority,
    "since": _moment("since"),
    "until": _moment("until"),
    "worker": _looked_for("worker"),
    "tag": _looked_for("tag"),
    "node": _looked_for("node"),
    "error": _looked_for("error"),
}
_EXAMPLES: Final = {
    "state": "state:discarded",
    "queue": "queue:mailers",
    "worker": "worker:SendMail",
    "tag": "tag:urgent",
    "node": "node:web.1",
    "priority": "priority:0",
    "id": "id:123",
    "error": "error:TimeoutError",
    "since": "since:2h",
    "until": "until:2026-11-01",
    "args": "args.order.id:17",
    "meta": "meta.batch:5",
}
