"""Chunks: many jobs of one worker as one call, and what the call says of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from oban_sa.describe.choices import is_whole
from oban_sa.errors import ChunkRetried, InvalidOption, ObanError, articled
from oban_sa.jobs.answers import Cancel, Record, is_error
from oban_sa.jobs.keys import Paths
from oban_sa.models import Job
from oban_sa.schedule.periods import Period, seconds

LARGEST: Final = 1000
"""Jobs of a chunk at most: their outcomes are one statement, and one transaction where there is a session."""

By: TypeAlias = str | tuple[str, ...]
"""Where the value is that all jobs of a chunk share: "args.tenant", "meta.region", or several of these."""


@dataclass(frozen=True, slots=True, init=False)
class Chunk:
    """How many jobs make a chunk, and how long the first one waits for others.

        @job(queue="index", chunk=Chunk(100, within="2 seconds", by="args.tenant"))

    A chunk has `size` jobs at most. Where there are fewer, it begins `within` a span of time after its first job began
    to wait; it becomes seconds. With `by` its jobs have the same value there. Raises `InvalidOption`.
    """

    size: int
    within: float
    by: Paths | None

    def __init__(self, size: int = 100, *, within: Period = 1, by: By | None = None) -> None:
        given: object = size
        if not is_whole(given, 1, LARGEST):
            raise InvalidOption(f"size is the number of jobs in a chunk, 1 to {LARGEST}, not {given!r}")
        object.__setattr__(self, "size", given)
        object.__setattr__(self, "within", seconds(within))
        object.__setattr__(self, "by", None if by is None else Paths.read(by, what="by"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What became of jobs of a chunk; those that are not named are completed.

    `retry` and `discard` say why, as text or as the exception; `cancel` gives the reason, and `record` what is to be
    recorded. A job is named once.
    """

    retry: Mapping[Job, str | BaseException] = field(default_factory=dict["Job", "str | BaseException"])
    cancel: Mapping[Job, object] = field(default_factory=dict["Job", object])
    record: Mapping[Job, object] = field(default_factory=dict["Job", object])
    discard: Mapping[Job, str | BaseException] = field(default_factory=dict["Job", "str | BaseException"])

    def answers(self, jobs: Iterable[Job]) -> dict[int, object]:
        """Return the answers of the jobs that are named, by their ids.

        Raises `ObanError` for a job that is not one of these, or is named twice, and for what is no mapping.
        """
        known = {job.id for job in jobs}
        found: dict[int, object] = {}
        for name in ("retry", "cancel", "record", "discard"):
            named: object = getattr(self, name)
            if not isinstance(named, Mapping):
                raise ObanError(f"{name} of a ChunkResult is a dict of jobs, not {articled(type(named).__name__)}")
            for job, said in cast("Mapping[object, object]", named).items():
                number = job.id if isinstance(job, Job) else None
                if number is None or number not in known:
                    raise ObanError(f"{name} of a ChunkResult names {job!r}, which is no job of this chunk")
                if number in found:
                    raise ObanError(f"a ChunkResult names job {number} twice")
                found[number] = _answer(name, said)
        return found


@dataclass(frozen=True, slots=True)
class Discard:
    """The answer that a job is not to be tried again, because of an error."""

    error: BaseException


def _answer(name: str, said: object) -> object:
    if name == "cancel":
        return said if isinstance(said, Cancel) else Cancel(said)
    if name == "record":
        return cast("Record[object]", said) if isinstance(said, Record) else Record(said)
    error = said if is_error(said) else ChunkRetried(str(said))
    return Discard(error) if name == "discard" else error
