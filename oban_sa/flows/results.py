"""What one member of a workflow recorded, as an argument of another one that does not run yet."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from oban_sa.arguments.annotations import resolve
from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.jobs.answers import Record
from oban_sa.jobs.flow import RESULTS
from oban_sa.models import Job
from oban_sa.workers.chunk import ChunkResult
from oban_sa.workers.definition import Definition
from oban_sa.workers.function import Calls, calls_of

if TYPE_CHECKING:
    from oban_sa.flows.parts import Member


class MemberResult:
    """Stands for what a member will have recorded, where another member is called with it."""

    INSTEAD: ClassVar = "give it to flow.call(...) as an argument of its own"

    def __init__(self, member: Member[object]) -> None:
        self.member = member

    def __repr__(self) -> str:
        return f"<result of {self.member.name!r}>"

    def _refuse(self, *_: object) -> NoReturn:
        """Refuse what looks like a use of the value, which would be one of this object."""
        raise InvalidJob(
            f"the result of {self.member.name!r} has a value only once that has run; {self.INSTEAD}, and use it there"
        )

    __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = __format__ = __str__ = _refuse


def called(
    function: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Job, Mapping[str, MemberResult]]:
    """Make the job of a call, and return the results that it takes, by the names of its parameters.

    Raises `InvalidJob` for a job in place of a function, and for a result of a member that records nothing, and
    `InvalidArguments` for a member in place of its result.
    """
    if isinstance(function, Job):
        raise InvalidJob(
            "call(name, function, ...) takes a @job function and its arguments; for a job write add(name, job)"
        )
    from oban_sa.flows.parts import Part  # which needs `MemberResult`

    for each in (*args, *kwargs.values()):
        if isinstance(each, Part):
            raise InvalidArguments(
                f"{each!r} is part of a workflow, not an argument; write .result for what it records"
            )
    calls: Calls[..., object] = calls_of(function)
    _refuse_options(calls, kwargs)
    if not any(isinstance(each, MemberResult) for each in (*args, *kwargs.values())):
        return calls.new(*args, **kwargs), {}
    job, left = calls.new_without(args, kwargs, MemberResult)
    taken = {name: each for name, each in left.items() if isinstance(each, MemberResult)}
    loaded = vars(job)
    loaded["meta"] = {**(loaded.get("meta") or {}), RESULTS: {name: each.member.name for name, each in taken.items()}}
    return job, taken


def _refuse_options(calls: Calls[..., object], kwargs: Mapping[str, object]) -> None:
    """Raise `TypeError` for options of `Workflow.add`, unless the function has a parameter of that name."""
    for option in ("deps", "forgive"):
        if option in kwargs:
            takes = inspect.signature(calls.definition.body.target).parameters
            if option not in takes and all(each.kind is not each.VAR_KEYWORD for each in takes.values()):
                raise TypeError(
                    f"{calls.definition.body.what} takes no {option}=; a call waits for the results it is given, and "
                    f"for others write add(name, function.new(...), {option}=...)"
                )


def check_records(definition: Definition, name: str) -> None:
    """Raise `InvalidJob` where the code of a member says that it records nothing, so that it has no result."""
    if definition.options.record:
        return
    target = definition.body.target
    annotation = getattr(target, "__annotations__", {}).get("return", inspect.Signature.empty)
    try:
        found = resolve({"it": annotation}, scope=getattr(target, "__globals__", {}), local={})["it"]
    except Exception:  # what can't be evaluated here says nothing
        return
    if found is not inspect.Signature.empty and not _records(found):
        raise InvalidJob(
            f"{definition.body.what} of {name!r} records nothing that another member could be called with; decorate it "
            "with record=True, which keeps what it returns, or have it return Record(...) and say so: -> Record[...]"
        )


def _records(annotation: object) -> bool:
    if isinstance(annotation, TypeVar) or any(annotation is each for each in (Record, ChunkResult, typing.Any, object)):
        return True
    return typing.get_origin(annotation) is Record or any(_records(each) for each in typing.get_args(annotation))
