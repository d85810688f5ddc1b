"""What an enqueued job should be like, and how far one is from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from oban_sa.errors import InvalidOption
from oban_sa.jobs import values
from oban_sa.models import Job, validation
from oban_sa.schedule.periods import describe, seconds
from oban_sa.workers import definition_of

DRIFT = timedelta(seconds=1)
"""How far a job's schedule may be from the moment it is expected at."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What was asked for; what is left out does not matter.

    A `span` counts from the database's now, which `at` puts into what is asked.
    """

    asked: Mapping[str, Any]
    span: timedelta | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Criteria:
        """Bring what the caller wrote into the form that jobs have it in."""
        asked: dict[str, Any] = {}
        span: timedelta | None = None
        for name, value in given.items():
            if value is None:
                continue
            if name == "worker":
                asked[name] = value if isinstance(value, str) else definition_of(value).name
            elif name in ("args", "meta"):
                asked[name] = values.from_json(values.dumps(values.to_json(value, where=name)))
            elif name == "tags":
                asked[name] = validation.tags(value)
            elif name == "schedule_in":
                span = timedelta(seconds=seconds(value))
            elif name == "scheduled_at":
                asked[name] = validation.moment(value, name)
            else:
                asked[name] = value
        if given.get("schedule_in") is not None and given.get("scheduled_at") is not None:
            raise InvalidOption("schedule_in and scheduled_at say the same; write one of them")
        return cls(asked, span)

    def at(self, now: datetime) -> Criteria:
        """Return what is asked for where this is the present moment."""
        return self if self.span is None else Criteria({**self.asked, "scheduled_at": now + self.span})

    def differences(self, job: Job) -> list[str]:
        """Say in what a job is not what was asked for: one line for each difference, none where it is."""
        found: list[str] = []
        for name, expected in self.asked.items():
            actual = getattr(job, name)
            if name in ("args", "meta"):
                found += _differ(expected, actual, name)
            elif name == "tags":
                if missing := [tag for tag in expected if tag not in actual]:
                    found.append(f"tags lacks {', '.join(map(repr, missing))}, it is {actual!r}")
            elif name == "scheduled_at":
                if abs(actual - expected) > DRIFT:
                    found.append(f"scheduled_at is {_shown(actual)}, {_apart(actual, expected)} {_shown(expected)}")
            elif actual != expected:
                found.append(f"{name} is {str(actual)!r}, not {str(expected)!r}")
        return found

    def __str__(self) -> str:
        """Read as the caller would have written it."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.asked.items()) or "any job"


def _differ(expected: Any, actual: Any, path: str) -> Iterable[str]:
    """Objects may hold more than was asked for; everything else is equal or not."""
    kind = expected.__class__
    if kind is dict and actual.__class__ is dict:
        for key, value in expected.items():
            if key not in actual:
                yield f"{path} lacks {key!r}"
            else:
                yield from _differ(value, actual[key], f"{path}.{key}")
    elif kind is list and actual.__class__ is list and len(expected) == len(actual):
        for index, (value, found) in enumerate(zip(expected, actual, strict=True)):
            yield from _differ(value, found, f"{path}[{index}]")
    elif values.dumps(expected) != values.dumps(actual) and not _equal_numbers(expected, actual):
        yield f"{path} is {_shown(actual)}, not {_shown(expected)}"


def _equal_numbers(one: Any, other: Any) -> bool:
    # 1 and 1.0 are the same to JSON; True is no number.
    return not isinstance(one, bool) and not isinstance(other, bool) and one == other


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    text = values.dumps(value) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _apart(actual: datetime, expected: datetime) -> str:
    apart = describe(round(abs((actual - expected).total_seconds()), 1))
    return f"{apart} {'after' if actual > expected else 'before'}"
