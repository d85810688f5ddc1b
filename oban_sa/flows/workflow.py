"""`Workflow`: a graph of jobs, written by a session with its other rows, in one commit."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import ParamSpec, TypeAlias, TypeVar, cast, overload
from uuid import UUID

from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from oban_sa.errors import InvalidJob, articled, nearest, shown
from oban_sa.flows import mermaid, svg
from oban_sa.flows.parts import (
    Dependencies,
    Dependency,
    Forgive,
    GraftPlace,
    Group,
    Member,
    Part,
    SubWorkflow,
    waits,
)
from oban_sa.flows.results import called
from oban_sa.flows.tree import tree
from oban_sa.jobs.answers import Cancel, Record, Snooze
from oban_sa.jobs.flow import listed_or_one, new_id
from oban_sa.models import Job
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import Tree
from oban_sa.outbox.member import check_member, check_name, several
from oban_sa.outbox.staged import Flow
from oban_sa.workers.function import Calls, Function, calls_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Callee: TypeAlias = Function[..., P, R] | Calls[P, R]
"""A function decorated with `@job`, or its calls with options."""

Answered: TypeAlias = Record[T] | Cancel | Snooze | None
"""What code returns that records a value of a type, unless it answers otherwise."""


class Workflow(Flow):
    """Jobs that wait for each other.

        flow = Workflow("nightly")
        flow.add("extract", extract.new("crm"))
        flow.add("report", report.new(), deps="extract")
        enqueue(session, flow)

    A member is available once all it waits for is completed. Where one of these is cancelled, discarded or deleted, the
    member is cancelled, unless it forgives that. With `unique` at most one unfinished workflow of this name exists: of
    another one nothing is written, and its `conflict` is True after the flush. `context` is JSON that all members can
    read, written once.
    """

    def __init__(
        self, name: str | None = None, *, unique: bool = False, context: Mapping[str, object] | None = None
    ) -> None:
        if name is not None:
            check_name(name, "a workflow")
        self.id: UUID = new_id()
        self.name = name
        self.unique = unique
        self.context = context
        self.conflict = False
        self._check_unique()
        self.inside: SubWorkflow | None = None
        """What it is in another workflow, where it was added to one."""
        self.parts: dict[str, Part] = {}
        """Its parts by their names, in the order in which they were added."""

    def add(self, name: str, job: Job, *, deps: Dependencies = (), forgive: Forgive = ()) -> Member:
        """Add a job under a name, which waits for `deps`: names, or what `add` and its like have returned.

        `forgive` says how these may end beside being completed: "cancelled", "discarded", "deleted", "all", a list of
        them, or a dictionary of them by dependency. A name may be waited for before it is added. Raises `InvalidJob`.
        """
        name = self._free(name)
        check_member(job, name)
        member = Member(self, name, waits(self, name, deps, forgive), job)
        self.parts[name] = member
        return member

    @overload
    def call(
        self, name: str, function: Callee[P, Awaitable[None] | None], /, *args: P.args, **kwargs: P.kwargs
    ) -> Member[None]: ...
    @overload
    def call(
        self, name: str, function: Callee[P, Awaitable[Answered[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Member[T]: ...
    @overload
    def call(self, name: str, function: Callee[P, Answered[T]], /, *args: P.args, **kwargs: P.kwargs) -> Member[T]: ...
    @overload
    def call(self, name: str, function: Callee[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Member[T]: ...
    @overload
    def call(self, name: str, function: Callee[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Member[T]: ...
    def call(self, name: str, function: object, /, *args: object, **kwargs: object) -> Member:
        """Add a call of a function that is decorated with `@job`: as `add(name, function.new(...))`.

        An argument may be the `result` of another member. This one then waits for that, and its code is given what that
        recorded. Other dependencies are for `add`. Raises what `function.new` and `add` raise.
        """
        name = self._free(name)
        job, results = called(function, args, kwargs)
        check_member(job, name)
        deps = waits(self, name, [each.member for each in results.values()], ())
        member: Member = Member(self, name, deps, job, calls_of(function).definition)
        self.parts[name] = member
        return member

    def add_many(self, name: str, jobs: Iterable[Job], *, deps: Dependencies = (), forgive: Forgive = ()) -> Group:
        """Add jobs as a group, all of which wait for `deps`; what waits for the group waits for all of them.

        However many they are, what waits for them has one dependency. A group may be empty.
        """
        name = self._free(name)
        members = several(jobs, "add_many", one="add(name, job)")
        for number, job in enumerate(members):
            check_member(job, f"{name}/{number}")
        group = Group(self, name, waits(self, name, deps, forgive), members)
        self.parts[name] = group
        return group

    def add_workflow(
        self, name: str, workflow: Workflow, *, deps: Dependencies = (), forgive: Forgive = ()
    ) -> SubWorkflow:
        """Add a workflow, which begins once `deps` are met, and is over when all its members are."""
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidJob(f"add_workflow takes a Workflow, and this is {articled(type(workflow).__name__)}")
        if workflow.inside is not None or self._is_inside(workflow):
            raise InvalidJob(f"{workflow!r} is part of a workflow already; make another one of the same parts")
        workflow.check_inside()
        part = SubWorkflow(self, self._free(name), waits(self, name, deps, forgive), workflow)
        workflow.inside = part
        self.parts[name] = part
        return part

    def graft(self, name: str, *, by: Dependency, deps: Dependencies = (), forgive: Forgive = ()) -> GraftPlace:
        """Add a place that the member `by` may fill with more members while it runs: `deps().graft(name)`.

        They wait for `by` and for `deps`. What waits for the graft waits for all of them, and for `by`.
        """
        [filler] = waits(self, name, [by], (), what="by")
        listed = cast("list[Dependency]", [filler, *listed_or_one(deps)])
        place = GraftPlace(self, self._free(name), waits(self, name, listed, forgive), filler)
        self.parts[name] = place
        return place

    def check_inside(self) -> None:
        """Raise `InvalidJob` where it can't be inside of another one as it is."""
        if self.unique:
            raise InvalidJob(f"{self!r} is unique, and one inside of another can't be; make the outer one unique")
        if self.context is not None:
            raise InvalidJob(f"{self!r} has a context of its own; set that of the outer one, which all members read")

    def check(self) -> None:
        """Raise `InvalidJob` for a name that no part has, for a cycle, and for a workflow without members."""
        self._check_unique()
        if not self.parts:
            raise InvalidJob(f"{self!r} has no members; add(...) one, or enqueue nothing")
        for part in self.parts.values():
            # Not by the difference of their keys, for which Python goes through all parts.
            if (name := next((each for each in part.waits if each not in self.parts), None)) is not None:
                raise InvalidJob(
                    f"{part.name!r} waits for {name!r}, which is no part of {self!r}{nearest(name, self.parts)}"
                )
            if isinstance(part, SubWorkflow):
                part.inner.check_inside()
                part.inner.check()
            if isinstance(part, GraftPlace) and not isinstance(filler := self.parts[part.by], Member):
                raise InvalidJob(
                    f"the graft {part.name!r} is filled by {filler!r}, and only a single member can do so; name one"
                )
        try:
            TopologicalSorter({name: part.waits.keys() for name, part in self.parts.items()}).prepare()
        except CycleError as error:
            raise InvalidJob(
                f"{self!r} has a cycle, in which each waits for the one before: {' -> '.join(error.args[1])}"
            ) from None

    def stage(self, session: Session) -> None:
        """Do what `enqueue` does: stage it with its members; raises `InvalidJob` where `check` does."""
        stage(session, self, self.tree())

    def tree(self) -> Tree:
        """Return the rows that `enqueue` has the session write; raises `InvalidJob` where `check` does."""
        if self.inside is not None:
            raise InvalidJob(f"{self!r} is part of {self.inside.workflow!r}; enqueue that one")
        self.check()
        return tree(self)

    def mermaid(self) -> str:
        """Draw the workflow as a Mermaid flowchart, without a database; raises `InvalidJob` where `check` does."""
        self.check()
        return mermaid.draw(self)

    def svg(self) -> str:
        """Draw the workflow as an SVG image, without a database; raises `InvalidJob` where `check` does."""
        self.check()
        return svg.draw(self)

    def __repr__(self) -> str:
        return "<Workflow>" if self.name is None else f"<Workflow {self.name!r}>"

    def _free(self, name: str) -> str:
        check_name(name, "a member")
        if name in self.parts:
            raise InvalidJob(f"{self!r} has a part {name!r} already; each name stands once")
        if self._is_enqueued():
            raise InvalidJob(
                f"{self!r} was enqueued already, and {name!r} would not be written with it; add all parts before "
                f"enqueue(session, flow), or have a job join it: await oban.append(session, flow.id, {name!r}, job)"
            )
        return name

    def _check_unique(self) -> None:
        if type(self.unique) is not bool:
            raise InvalidJob(f"unique of a workflow is True or False, not {shown(self.unique)}")
        if self.unique and self.name is None:
            raise InvalidJob("a unique workflow needs a name: Workflow('nightly', unique=True)")

    def _is_enqueued(self) -> bool:
        """Whether a session has it, or has written it; told by one of its jobs, as these are staged together."""
        for part in self.parts.values():
            if isinstance(part, SubWorkflow) and part.inner.parts:
                return part.inner._is_enqueued()
            jobs = [part.job] if isinstance(part, Member) else part.jobs[:1] if isinstance(part, Group) else ()
            for job in jobs:
                state, meta = instance_state(job), cast("Mapping[str, object]", vars(job).get("meta") or {})
                is_staged = state.session_id is not None and meta.get("workflow_id") == str(self.id)
                return is_staged or state.key is not None
        return False

    def _is_inside(self, workflow: Workflow) -> bool:
        outer: Workflow | None = self
        while outer is not None:
            if outer is workflow:
                return True
            outer = None if outer.inside is None else outer.inside.workflow
        return False


def chain(*jobs: Job, name: str | None = None) -> Workflow:
    """Return a workflow of jobs each of which waits for the one before; their names are "1", "2" and so on.

    Raises `InvalidJob` for what can't be a member, and `TypeError` for what is no job.
    """
    flow = Workflow(name)
    for given in cast("tuple[object, ...]", jobs):
        if isinstance(given, (Flow, list, tuple)):
            kind: str = type(cast("object", given)).__name__
            raise TypeError(
                f"chain takes jobs one by one, as chain(a, b), and this is {articled(kind)}; write chain(*jobs) for a "
                "list, and a Workflow where whole workflows or groups wait for each other"
            )
    for number, job in enumerate(jobs, 1):
        flow.add(str(number), job, deps=str(number - 1) if number > 1 else ())
    return flow
