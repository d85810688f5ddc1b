"""What a job may hold: each rule returns the value as it is stored, or says what to write instead."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import ClauseElement

from oban_sa.describe.caller import warn
from oban_sa.describe.choices import is_whole
from oban_sa.errors import InvalidJob, NaiveMoment, nearest, shown
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict
from oban_sa.models.later import Later
from oban_sa.schedule.periods import Period, seconds

UPDATABLE: Final = (
    "args",
    "max_attempts",
    "meta",
    "priority",
    "queue",
    "schedule_in",
    "scheduled_at",
    "tags",
    "worker",
)
"""What may still change in a job that was made."""

LONGEST_NAME: Final = 127
"""Characters that a queue's or a worker's name may have in the family's tables."""

_LARGEST_INTEGER: Final = 2**31 - 1

_names: Final[set[str]] = set()
_MOST_NAMES: Final = 1_000


def name(value: object, field: str) -> str:
    """Accept a queue's or worker's name of 1 to 127 characters."""
    if type(value) is str and value in _names:  # a program has few names, and jobs without number
        return value
    if not isinstance(value, str):
        raise InvalidJob(f"{field} must be a string, got {shown(value)}")
    plain = str.__str__(value)  # of a subclass, whose own methods may say something else
    if not plain.strip():
        raise InvalidJob(f"{field} must not be blank")
    if "\0" in plain:
        raise InvalidJob(f"{field} must not contain NUL characters, got {shown(plain)}")
    _check_encodable(plain, field)
    if len(plain) > LONGEST_NAME:
        raise InvalidJob(f"{field} must be at most {LONGEST_NAME} characters long, {shown(plain)} has {len(plain)}")
    if len(_names) >= _MOST_NAMES:
        _names.clear()
    _names.add(plain)
    return plain


def max_attempts(value: object) -> int:
    """Accept a positive whole number."""
    number = _integer(value, "max_attempts")
    if number <= 0:
        raise InvalidJob(f"max_attempts must be greater than 0, got {shown(number)}")
    return number


def attempt(value: object, limit: int) -> int:
    """Accept how many attempts were made: 0 up to `limit`, the job's max_attempts."""
    number = _integer(value, "attempt")
    if not 0 <= number <= limit:
        raise InvalidJob(f"attempt must be between 0 and max_attempts ({limit}), got {shown(number)}")
    return number


def attempts_left(value: object) -> int:
    """Accept how many attempts a job that is retried has left: 1 to 10,000."""
    number = _integer(value, "attempts")
    if not 1 <= number <= 10_000:
        raise InvalidJob(f"attempts must be between 1 and 10,000, got {shown(number)}")
    return number


def priority(value: object) -> int:
    """Accept 0, the first to run, to 9."""
    number = _integer(value, "priority")
    if not 0 <= number <= 9:
        raise InvalidJob(f"priority must be between 0 and 9, got {shown(number)}")
    return number


def identity(value: object) -> int:
    """Accept a positive whole number of at most 64 bits."""
    number = int.__index__(value) if is_whole(value) else 0
    if not 0 < number < 2**63:
        raise InvalidJob(
            f"id must be a positive whole number, got {shown(value)}; leave it out to let the database choose"
        )
    return number


def state(value: object) -> JobState:
    """Accept a state or its name."""
    if type(value) is JobState:
        return value
    plain = str.__str__(value) if isinstance(value, str) else ""
    try:
        return JobState(plain)
    except ValueError:
        hint = nearest(plain[:100], [str(known) for known in JobState])
        raise InvalidJob(f"state must be one of {', '.join(JobState)}, got {shown(value)}{hint}") from None


def json_object(value: object, field: str) -> JSONDict:
    """Accept a dict, or None for an empty one; what is inside is looked at when the job is enqueued."""
    if value is None:
        return {}
    if not values.is_object(value):
        raise InvalidJob(f"{field} must be a dict, got {type(value).__name__}; write {field}={{...}}")
    return value


def tags(value: object) -> list[str]:
    """Strip, lower, de-duplicate and sort tags, without the blank ones, and without 0 and False."""
    if value is None:
        return []
    cleaned = {tag.strip().lower() for tag in _texts(value, "tags", zeros=False)}
    return sorted(cleaned - {""})


def strings(value: object, field: str) -> list[str]:
    """Accept a list of strings, or None for an empty one."""
    return [] if value is None else _texts(value, field)


def _texts(value: object, field: str, *, zeros: bool = True) -> list[str]:
    """Accept anything that gives texts, or values with a text of their own such as numbers, but for None."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        raise InvalidJob(f"{field} must be a list of strings, got {shown(value)}")  # pyright: ignore[reportUnknownArgumentType]
    given: Iterable[object] = value  # pyright: ignore[reportUnknownVariableType]
    try:
        return [_text(entry, field) for entry in given if entry is not None and (zeros or not _is_zero(entry))]
    except InvalidJob:
        raise
    except Exception as error:  # of code of the caller's: a generator, a class that says how it is written
        raise InvalidJob(f"{field} must be a list of strings, and {shown(given)} can't be read: {error}") from error


def _is_zero(entry: object) -> bool:
    return isinstance(entry, (int, float)) and not entry


def _text(entry: object, field: str) -> str:
    if isinstance(entry, (bytes, bytearray, Mapping, list, tuple, set, frozenset)):
        raise InvalidJob(f"{field} must be a list of strings, and in it stands {shown(entry)}")  # pyright: ignore[reportUnknownArgumentType]
    text = str.__str__(entry) if isinstance(entry, str) else str(entry)
    if "\0" in text:
        raise InvalidJob(f"{field} must not contain NUL characters")
    _check_encodable(text, field)
    return text


def _check_encodable(text: str, field: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidJob(
                f"{field} must not contain lone surrogates, which are no characters, got {shown(text)}"
            ) from None


def entries(value: Any) -> list[JSONDict]:
    """Accept the list of a job's errors, or None for an empty one; raises InvalidArguments for what is not JSON."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise InvalidJob(f"errors must be a list, got {shown(value)}")
    plain: list[JSONDict] = values.to_json(value, where="errors")
    return plain


def moment(value: object, field: str) -> datetime | None:
    """Accept a datetime; a naive one is taken as UTC, an aware one converted to it."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidJob(f"{field} must be a datetime, got {shown(value)}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise InvalidJob(f"{field} must be a moment from the year 1 to 9999 in UTC, got {shown(value)}") from None


def due(value: object) -> datetime | None:
    """Accept the moment from which a job may run; a `NaiveMoment` warns of one without a time zone, taken as UTC."""
    found = moment(value, "scheduled_at")
    if isinstance(value, datetime) and value.tzinfo is None:
        warn(
            f"scheduled_at={value!r} has no time zone and is taken as UTC; write datetime.now(UTC) instead of "
            f"datetime.now(), .replace(tzinfo=UTC) where it is UTC, .astimezone() where it is the time of this "
            f"machine, .replace(tzinfo=ZoneInfo(...)) where it is that of a place, or schedule_in=timedelta(...)",
            NaiveMoment,
        )
    return found


def schedule(scheduled_at: object, schedule_in: object, scheduled_in: object) -> datetime | None:
    """Return the moment that a schedule names, or None where none is given; a span counts from the database's now."""
    if schedule_in is None:
        schedule_in = scheduled_in
    elif scheduled_in is not None:
        raise InvalidJob("schedule_in and scheduled_in mean the same; give one of them")
    if schedule_in is None:
        return due(scheduled_at)
    return Later.after(timedelta(seconds=seconds(cast("Period", schedule_in))))


def whole(held: Mapping[str, object]) -> dict[str, Any]:
    """Accept what a job holds, as far as it is loaded, and return what of it is stored otherwise.

    Raises InvalidJob for what its constructor would refuse, such as what another program wrote into its row.
    """
    found = {field: (held[field], RULES[field](held[field])) for field in _SETTLED if field in held}
    return {field: right for field, (value, right) in found.items() if right != value}


def changes(given: Mapping[str, object]) -> dict[str, Any]:
    """Return the columns, and their values, that an update changes; everything is checked before anything changes."""
    checked: dict[str, Any] = {}
    for key, value in given.items():
        match key:
            case "args" | "meta":
                checked[key] = json_object(value, key)
            case "queue" | "worker":
                checked[key] = name(value, key)
            case "max_attempts":
                checked[key] = max_attempts(value)
            case "priority":
                checked[key] = priority(value)
            case "tags":
                checked[key] = tags(value)
            case "scheduled_at" | "schedule_in" | "scheduled_in":
                when = schedule(given.get("scheduled_at"), given.get("schedule_in"), given.get("scheduled_in"))
                if when is not None:
                    checked["scheduled_at"] = when
            case _:
                raise InvalidJob(
                    f"a job's {key!r} can't be updated"
                    + nearest(str(key), UPDATABLE, f"update takes {', '.join(UPDATABLE)}")
                )
    return checked


def _integer(value: object, field: str) -> int:
    if type(value) is int and value <= _LARGEST_INTEGER:
        return value
    if not is_whole(value):
        raise InvalidJob(f"{field} must be a whole number, got {shown(value)}")
    number = int.__index__(value)
    if number > _LARGEST_INTEGER:
        raise InvalidJob(f"{field} must be at most {_LARGEST_INTEGER}, got {shown(number)}")
    return number


_MOMENTS: Final = ("inserted_at", "attempted_at", "cancelled_at", "completed_at", "discarded_at")

Rule: TypeAlias = Callable[[object], object]

_CHECKS: Final[Mapping[str, Rule]] = {
    "queue": lambda value: name(value, "queue"),
    "worker": lambda value: name(value, "worker"),
    "state": state,
    "max_attempts": max_attempts,
    "priority": priority,
    "args": lambda value: json_object(value, "args"),
    "meta": lambda value: json_object(value, "meta"),
    "tags": tags,
    "attempted_by": lambda value: strings(value, "attempted_by"),
    "scheduled_at": lambda value: value if isinstance(value, Later) else due(value),
    **{field: partial(moment, field=field) for field in _MOMENTS},
}

_SETTLED: Final = ("queue", "worker", "max_attempts", "priority", "tags")


def _expression_or(rule: Rule) -> Rule:
    # What an SQL expression comes to the database will say.
    return lambda value: value if _is_expression(value) else rule(value)


def _is_expression(value: object) -> bool:
    return isinstance(value, ClauseElement) or (hasattr(value, "__clause_element__") and not isinstance(value, Later))


RULES: Final[Mapping[str, Callable[[object], object]]] = {
    field: _expression_or(rule) for field, rule in _CHECKS.items()
}
"""What is said of each column alone, and not of SQL expressions."""
