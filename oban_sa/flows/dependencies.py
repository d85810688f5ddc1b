"""`deps()`: what a running member of a workflow waited for, and what that has recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID

from oban_sa.errors import DependencyNotFound, DependencyNotLoaded, JobNotFound, nearest, shown
from oban_sa.flows.graft import Graft, Place
from oban_sa.flows.load import Reading
from oban_sa.flows.stream import Fetch, Row, Stream
from oban_sa.jobs.flow import READS, RESULTS
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict, from_json
from oban_sa.sql.dependencies import FIRST, dependencies, first
from oban_sa.wire import erlang
from oban_sa.workers.current import ATTEMPT, current_job

if TYPE_CHECKING:
    from oban_sa.models import Job

DependencyState: TypeAlias = JobState | Literal["deleted"]
"""How a dependency ended."""

_STATES: Final[Mapping[str | None, DependencyState]] = {
    "c": JobState.COMPLETED,
    "x": JobState.CANCELLED,
    "d": JobState.DISCARDED,
    "g": "deleted",
}


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that a member waited for: another member, or a group, graft or workflow as a whole."""

    name: str
    state: DependencyState
    """How it ended; a whole one is discarded or cancelled where one of its members is."""
    kind: str = "job"
    flow_id: UUID | None = None
    total: int | None = None
    recorded: str | None = None
    size: int | None = None
    given: tuple[object, ...] = ()
    """What a test gave in place of what was recorded."""

    @property
    def is_read(self) -> bool:
        """Whether its result, where there is one, is in memory."""
        return self.size is None or self.recorded is not None

    @property
    def result(self) -> Any:
        """What the member recorded; None where it ended otherwise than completed.

        Raises `DependencyNotFound` where it recorded nothing, and `DependencyNotLoaded` for a whole group, which is
        read by `stream`, and for a value that is so large that only `load()` reads it.
        """
        if self.given:
            return self.given[0]
        if self.kind != "job":
            raise DependencyNotLoaded(
                f"{self.name!r} is a {self.kind}, whose members have a result each; write deps().stream({self.name!r})"
            )
        if self.state != JobState.COMPLETED:
            return None
        if self.size is None:
            raise DependencyNotFound(
                f"{self.name!r} recorded nothing, or its job was deleted since; decorate its worker with record=True, "
                "or have it return Record(...)"
            )
        if self.recorded is None:
            raise DependencyNotLoaded(f"what {self.name!r} recorded is large; write `await deps().load()` before")
        return erlang.decode(self.recorded)


class Deps(Mapping[str, Dependency]):
    """What the running job waited for, by name.

    Read before the code began, but for more than 100 dependencies, and for values of more than a million characters:
    those are read by `await deps().load()`. In a thread `load()` is not awaited.
    """

    # Many begin at once, and the garbage collector follows each object that they consist of: there are few.
    __slots__ = ("_all", "_context", "_fetch", "_found", "_is_test", "_job", "_loop", "_places", "_rows")

    def __init__(self, job: Job, fetch: Fetch | None = None, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._job = job
        self._fetch = fetch
        self._loop = loop
        self._rows: Sequence[Row] = ()
        """What was read, and not looked at yet."""
        self._found: dict[str, Dependency] | None = None
        self._places: dict[str, Place] | None = None
        self._is_test = False
        self._all = True
        self._context: JSONDict | None = None

    @classmethod
    def given(cls, job: Job, results: Mapping[str, object], context: Mapping[str, object] | None) -> Deps:
        """Return those that a test gives: results by name, all completed."""
        made = cls(job)
        made._context = dict(context or {})
        made._is_test = True
        made._found = {
            name: value if isinstance(value, Dependency) else Dependency(name, JobState.COMPLETED, given=(value,))
            for name, value in results.items()
        }
        return made

    @property
    def context(self) -> JSONDict:
        """What `Workflow(context={...})` was given."""
        self._look()
        if self._context is None:
            self._context = {}
        return self._context

    def __getitem__(self, name: str) -> Dependency:
        known = self._known
        try:
            return known[name]
        except KeyError:
            self._require_all()
            raise DependencyNotFound(
                f"this job waited for nothing that is named {shown(name)}{nearest(str(name), known, _those(known))}"
            ) from None

    def __repr__(self) -> str:
        states = ", ".join(f"{name!r}: {each.state}" for name, each in (self._known if self._all else {}).items())
        return f"<Deps {{{states}}}>" if self._all else "<Deps, to be loaded>"

    def __iter__(self) -> Iterator[str]:
        known = self._known
        self._require_all()
        return iter(known)

    def __len__(self) -> int:
        known = self._known
        self._require_all()
        return len(known)

    def load(self) -> Reading[None]:
        """Read all dependencies and all that they recorded, however large: `await deps().load()`.

        In a thread `deps().load()` does it at once.
        """
        return Reading(self._loading, self._loop)

    def stream(self, name: str) -> Stream:
        """Read what the completed members of a group, graft or workflow recorded: pairs of a name and a value.

        `async for name, value in deps().stream("thumbs")`, in a thread `for`. So many may be read, for only some of
        them are in memory at a time. The value is None where a member recorded nothing. The names of a group are
        "thumbs/0", "thumbs/1" and so on, in this order.
        """
        return Stream(self[name], self._fetch, self._loop)

    def graft(self, name: str) -> Graft:
        """Return the graft that this member may fill: add jobs to it, and enqueue it in the attempt's session.

        Raises `DependencyNotFound` where the workflow has no such place for this member.
        """
        self._look()
        places = self._places or {}
        if name not in places and not self._is_test:
            raise DependencyNotFound(
                f"this job may fill no graft named {shown(name)}"
                + nearest(str(name), places, f"a workflow makes the place for it: flow.graft({name!r}, by=...)")
            )
        return Graft(name, self._job, places.get(name))

    def take(self, rows: Sequence[Row], *, is_all: bool = False) -> None:
        """Keep what was read until it is asked for: what is read first, or with `is_all` everything."""
        self._rows = rows
        self._found = None
        self._all = is_all or sum(row["kind"] == "job" for row in rows) <= FIRST

    @property
    def gives_arguments(self) -> bool:
        """Whether arguments of the job are among it, which `fill` gives it."""
        return bool(self._results)

    async def fill(self) -> None:
        """Give the job the arguments that others have recorded; raises `DependencyNotFound` where one has not."""
        known, wanted = self._known, set(self._results.values())
        if wanted and not (self._all and all(known[each].is_read for each in wanted & known.keys())):
            await self._loading()
        self.fill_at_once()

    def fill_at_once(self) -> None:
        """Do the same with what is in memory."""
        for parameter, name in self._results.items():
            found = self[name]
            if found.state != JobState.COMPLETED:
                raise DependencyNotFound(f"{parameter} is what {name!r} records, which is {found.state}")
            self._job.args[parameter] = found.result

    @property
    def _results(self) -> Mapping[str, str]:
        # Past the instrumentation, which would look at the attribute as if it might have to be loaded.
        meta = vars(self._job).get("meta") or self._job.meta or {}
        return meta.get(RESULTS) or {}

    def belongs_to(self, job: Job) -> bool:
        """Whether they are those of a job."""
        return self._job is job

    def _require_all(self) -> None:
        if not self._all:
            raise DependencyNotLoaded(
                f"this job waited for more than {FIRST} others, which are not read yet; write `await deps().load()`, "
                "or in a thread deps().load(), before"
            )

    async def _loading(self) -> None:
        if self._fetch is not None:
            given = {"jobs": [self._job.id], "limit": None, "large": 2**31 - 1}
            self.take(await self._fetch(dependencies, given), is_all=True)

    @property
    def _known(self) -> dict[str, Dependency]:
        """The dependencies by name."""
        self._look()
        return self._found or {}

    def _look(self) -> None:
        """Look at what was read, unless that is done."""
        if self._found is not None:
            return
        rows, self._rows = self._rows, ()
        found: dict[str, Dependency] = {}
        for row in sorted(rows, key=lambda row: row["depth"]):
            if row["kind"] == "context":
                self._context = from_json(row["recorded"])
            elif row["kind"] == "place":
                self._places = self._places or {}
                self._places[row["name"]] = _place(row["flow_id"], from_json(row["recorded"]))
            elif row["kind"] != "job" or self._all:
                found[row["name"]] = Dependency(
                    name=row["name"],
                    state=_STATES[row["state"]],
                    kind=row["kind"],
                    flow_id=row["flow_id"],
                    total=row["total"],
                    recorded=row["recorded"],
                    size=row["size"],
                )
        self._found = found


def _those(known: Mapping[str, object]) -> str:
    """Say what a job waited for, as far as a message can hold it."""
    if not known:
        return "it waited for nothing at all"
    names = ", ".join(map(repr, list(known)[:10]))
    return f"it waited for {names}{' and others' if len(known) > 10 else ''}"


def _place(graft: UUID, meta: JSONDict) -> Place:
    return Place(
        id=graft,
        root=UUID(meta["root"]),
        parents={int(job): forgives for job, forgives in meta["parents"].items()},
        gates={UUID(flow): forgives for flow, forgives in meta["gates"].items()},
    )


DEPS: Final[ContextVar[Deps]] = ContextVar("oban_sa.deps")
"""The dependencies of the code that runs in a context."""


def deps() -> Deps:
    """Return what the job that runs here waited for, and the context of its workflow.

    Of a job that is no member of a workflow there is nothing. Raises `JobNotFound` outside of a worker, and
    `DependencyNotLoaded` in another process, where it does not reach, and in a chunk, which is a call for many jobs:
    there take results as arguments.
    """
    try:
        job = current_job()
    except JobNotFound:
        raise JobNotFound(
            "no job is running here; deps() answers only below the code of a worker, and a test gives it results by "
            "perform_job(worker, deps={...})"
        ) from None
    if (attempt := ATTEMPT.get(None)) is not None and attempt.is_of_many:
        raise DependencyNotLoaded(
            "deps() is of one job, and a chunk is one call for many; take results as arguments, which stand in each "
            "job's args: flow.call('index', index, page=page.result)"
        )
    found = DEPS.get(None)
    if found is not None and found.belongs_to(job):
        return found
    if READS in job.meta:
        raise DependencyNotLoaded(
            "deps() does not reach another process; take results as arguments, which do: "
            "flow.call('total', add_up, rows.result)"
        )
    return Deps(job)


async def enter(job: Job, fetch: Fetch) -> None:
    """Read the dependencies of a job, for `deps()` in this context, and give it the arguments that are among them."""
    await begin(job, fetch, await fetch(dependencies, first([job.id]))).fill()


def begin(job: Job, fetch: Fetch, rows: Sequence[Row]) -> Deps:
    """Make `deps()` answer in this context with rows of what is read first; `fetch` reads the rest."""
    found = Deps(job, fetch, asyncio.get_running_loop())
    found.take(rows)
    DEPS.set(found)
    return found
