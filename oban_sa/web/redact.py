"""What is shown of a job's args, meta, errors and recorded value: secrets are hidden before they reach a page."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from oban_sa.describe.redaction import HIDDEN, redacted
from oban_sa.jobs import redaction
from oban_sa.jobs.hidden import REDACTED
from oban_sa.models import Job
from oban_sa.sql.wanted import Term
from oban_sa.wire import json_text

logger = logging.getLogger("oban_sa.web")

SECRETS: Final = re.compile(
    r"pass(word|wd|phrase|code)|^(pw|pwd|pin|cvv|cvc|ssn|iban)$|secret|token|authorization|api[-_]?key|access[-_]?key"
    r"|private[-_]?key|credential|cookie|card[-_]?(number|no)|session[-_]?id|signature",
    re.IGNORECASE,
)
"""Keys whose values are hidden."""

_DEEPEST: Final = 60
_RETURN: Final = "return"


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a job; each of the four may be replaced."""

    args: object
    meta: object
    errors: tuple[object, ...]
    recorded: object = None


Redact: TypeAlias = Callable[[Job], Shown]


def raw(job: Job) -> Shown:
    """Return all that a job holds, and hide nothing; where the recorded value can't be read, why."""
    meta = {key: value for key, value in (job.meta or {}).items() if key != _RETURN}
    recorded: object = None
    if _RETURN in (job.meta or {}):
        try:
            recorded = job.recorded()
        except Exception as error:
            recorded = f"can't be decoded: {error}"
    return Shown(job.args, meta, tuple(job.errors or ()), recorded)


def masked(job: Job) -> Shown:
    """Return what a job holds with `***` for values whose keys sound like secrets, and for passwords in URLs.

    What the job's worker redacts is `[redacted]`, in args and errors.
    """
    shown = raw(job)
    errors = tuple(_masked(error, 0) for error in redaction.errors(shown.errors, job.args, job.meta))
    args = redaction.args(shown.args, job.meta)
    return Shown(_masked(args, 0), _masked(shown.meta, 0), errors, _masked(shown.recorded, 0))


def shown(redact: Redact, job: Job) -> Shown:
    """Return what the application's function lets be shown; nothing where it fails, which is logged."""
    try:
        answer: object = redact(job)
        if not isinstance(answer, Shown):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"redact= answered {type(answer).__name__}; it has to answer Shown(args, meta, errors)")
    except Exception:
        logger.exception("redact= failed for job %s, so nothing of it is shown", job.id)
        return Shown(HIDDEN, HIDDEN, (HIDDEN,) if job.errors else (), None)
    return answer


def is_hidden(redact: Redact, term: Term) -> bool:
    """Return whether a search by a value would tell what the page hides: each answer would say whether it was right."""
    for text in term.values:
        value = json_text.read(text)
        held = cast("dict[str, object]", value)
        probe = Job("probe", args=held) if term.of == "args" else Job("probe", meta=held)
        answer = shown(redact, probe)
        if (answer.args if term.of == "args" else answer.meta) != value:
            return True
    return False


def without_redacted(term: Term) -> list[Term]:
    """Return the terms that keep a search by args from jobs that redact them: finding one would tell the value."""
    if term.of != "args":
        return []
    paths = {path for text in term.values for path in _paths(json_text.read(text))}
    said = tuple(json_text.write({REDACTED: [path]}) for path in sorted(paths))
    return [Term("meta", said, negated=True)] if said else []


def _paths(value: object, before: str = "") -> Iterator[str]:
    """Yield what a name in `redact=[...]` may be that is of these args, or leads into them."""
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            path = f"{before}.{key}" if before else key
            yield path
            yield from _paths(inner, path)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _paths(each, before)


def _masked(value: object, depth: int) -> object:
    if depth > _DEEPEST:
        return HIDDEN
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        return {
            key: HIDDEN if SECRETS.search(str(key)) and inner not in (None, "") else _masked(inner, depth + 1)
            for key, inner in members.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked(inner, depth + 1) for inner in cast("list[object]", value)]
    return value
