"""The parts of a workflow: members, groups of members, and workflows inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast
from uuid import UUID

from oban_sa.errors import InvalidJob, articled, shown
from oban_sa.flows.results import MemberResult, check_records
from oban_sa.jobs.flow import Forgiven, forgives_each, listed_or_one, new_id

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from oban_sa.flows.workflow import Workflow
    from oban_sa.models import Job
    from oban_sa.workers import Definition

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


class Part:
    """Something with a name in a workflow, that other parts can wait for."""

    def __init__(self, workflow: Workflow, name: str, waits: Waits) -> None:
        self.workflow = workflow
        self.name = name
        self.waits = waits
        """The names of the parts that it waits for, and what it forgives each."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Member(Part, Generic[T]):
    """A job in a workflow; `T` is what it records, where it was added by `call`."""

    def __init__(
        self, workflow: Workflow, name: str, waits: Waits, job: Job, definition: Definition | None = None
    ) -> None:
        super().__init__(workflow, name, waits)
        self.job = job
        self._definition = definition

    @property
    def result(self) -> T:
        """Stand for what this member will have recorded: an argument of another `call`, which waits for it.

        It is a value only in the worker, so it can't be a part of another argument. Raises `InvalidJob` where the
        member's code says that it records nothing.
        """
        if self._definition is not None:
            check_records(self._definition, self.name)
        return cast("T", MemberResult(cast("Member[object]", self)))


class Group(Part):
    """Members without an order among them, that are waited for as a whole."""

    def __init__(self, workflow: Workflow, name: str, waits: Waits, jobs: Sequence[Job]) -> None:
        super().__init__(workflow, name, waits)
        self.jobs = jobs
        self.id: UUID = new_id()


class SubWorkflow(Part):
    """A workflow inside another one: it waits as a whole, and is waited for as a whole."""

    def __init__(self, workflow: Workflow, name: str, waits: Waits, inner: Workflow) -> None:
        super().__init__(workflow, name, waits)
        self.inner = inner


class GraftPlace(Part):
    """A place in a workflow that a running member, `by`, may fill with more of them."""

    def __init__(self, workflow: Workflow, name: str, waits: Waits, by: str) -> None:
        super().__init__(workflow, name, waits)
        self.by = by
        self.id: UUID = new_id()


Waits: TypeAlias = Mapping[str, int]
"""By the name of a part that is waited for, the bits of what is forgiven."""

Dependency: TypeAlias = str | Part
Dependencies: TypeAlias = Dependency | Iterable[Dependency]
Forgive: TypeAlias = Forgiven | Mapping[str, Forgiven] | Mapping[Part, Forgiven] | Mapping[Dependency, Forgiven]
"""The same for all dependencies, or by each of them."""


def waits(workflow: Workflow, name: str, deps: Dependencies, forgive: Forgive, *, what: str = "deps") -> Waits:
    """Read what the part `name` of a workflow waits for; names are looked up later, when all parts are there.

    `what` is the keyword that they were given by. Raises `InvalidJob` for a part of another workflow, and
    `InvalidOption` for what can't be forgiven.
    """
    names: dict[str, None] = {}
    for each in listed_or_one(deps):
        if isinstance(each, Part):
            if each.workflow is not workflow:
                raise InvalidJob(
                    f"{name!r} can't wait for {each!r}, which is in another workflow; add that workflow to this one "
                    "with add_workflow(...), and wait for it as a whole"
                )
            names[each.name] = None
        elif isinstance(each, str):
            names[each] = None
        else:
            raise InvalidJob(
                f"{what} of {name!r} {'is a name' if what == 'by' else 'are names'}, or what add(...) and its like "
                f"returned, and this is {articled(type(each).__name__)}: {shown(each)}"
            )
    if isinstance(forgive, Mapping):
        by_dependency = cast("Mapping[object, Forgiven]", forgive)
        by_name = {each.name if isinstance(each, Part) else each: words for each, words in by_dependency.items()}
        return forgives_each(name, names, cast("Mapping[str, Forgiven]", by_name))
    return forgives_each(name, names, forgive)
