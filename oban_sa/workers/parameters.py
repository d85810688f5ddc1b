"""What a worker's code takes: what the runner injects, and what comes from the job's args."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Annotated, Any, Final, Literal, NamedTuple, NewType, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.arguments import libraries
from oban_sa.arguments.annotations import UNIONS, is_alias, resolve
from oban_sa.arguments.entities import says_how
from oban_sa.errors import InvalidOption
from oban_sa.models import Job

Given: TypeAlias = Literal["job", "session", "args"]
"""What a parameter is filled with."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An annotation that names something which doesn't exist yet; it may once the module has been run to its end."""

    text: str
    missing: str


class Parameter(NamedTuple):
    """One parameter of a worker's code, with what its annotation means."""

    name: str
    annotation: object  # inspect.Parameter.empty where there is none
    kind: Any  # one of the five of inspect.Parameter, whose class has no public name
    default: object

    @property
    def bare(self) -> bool:
        """Says nothing about what it takes."""
        return any(self.annotation is each for each in (inspect.Parameter.empty, Any, object))

    @property
    def is_job(self) -> bool:
        """Takes the job."""
        return _is_class(self.annotation, Job)

    @property
    def session(self) -> type[AsyncSession | Session] | None:
        """The class of session that it takes, or None where it takes something else."""
        found = self.annotation
        return found if isinstance(found, type) and issubclass(found, (AsyncSession, Session)) else None


def parameters(function: Callable[..., object], *, local: Mapping[str, object], what: str) -> list[Parameter]:
    """Return the parameters of `function`, with their annotations evaluated as far as that is possible yet."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise InvalidOption(f"{what} has no signature that could be read: {error}") from error
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    return [
        Parameter(
            parameter.name,
            meaning(parameter.annotation, scope=scope, local=local),
            parameter.kind,
            parameter.default,
        )
        for parameter in signature.parameters.values()
    ]


def meaning(annotation: object, *, scope: dict[str, Any], local: Mapping[str, object]) -> object:
    """Return what an annotation means, without an `Annotated` that says nothing to us, or `Unresolved`.

    Of what the runner injects `| None` is taken away too.
    """
    if annotation is inspect.Parameter.empty:
        return annotation
    try:
        return _evaluated(annotation, scope, local)
    except NameError as error:
        # What the runner injects is often imported for type checkers only, and is known by its name then.
        try:
            return _evaluated(annotation, {**_INJECTED, **scope}, local)
        except NameError:
            text = str(annotation).strip("'\"").removesuffix("| None").strip()
            return _INJECTED.get(text.rpartition(".")[2]) or Unresolved(str(annotation), error.name or "")


def _evaluated(annotation: object, scope: dict[str, Any], local: Mapping[str, object]) -> object:
    try:
        return _stripped(resolve({"it": annotation}, scope=scope, local=local)["it"])
    except NameError:
        raise
    except Exception as error:
        raise InvalidOption(f"the annotation {annotation!r} can't be evaluated: {error}") from error


def _stripped(annotation: object) -> object:
    if typing.get_origin(annotation) is Annotated and not says_how(annotation):
        inner, *metadata = typing.get_args(annotation)
        inner = _stripped(inner)
        if _is_class(inner, (Job, AsyncSession, Session)) or not libraries.constrains(metadata):
            return inner
    kind = without_none(annotation)
    return kind if _is_class(kind, (Job, AsyncSession, Session)) else annotation


def without_none(annotation: object) -> object:
    """Return `X` for `X | None`, and anything else as it is."""
    if typing.get_origin(annotation) in UNIONS:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return kinds[0]
    return annotation


def _is_class(annotation: object, of: type | tuple[type, ...]) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, of)


def local_names(frame: FrameType) -> dict[str, object]:
    """Return what annotations may name in the function or class body that `frame` runs; at a module's top, nothing.

    Only types and modules are kept, because a definition lives on and must not keep a caller's data alive.
    """
    if frame.f_locals is frame.f_globals:
        return {}
    kept = (type, ModuleType, NewType)
    return {
        name: value
        for name, value in frame.f_locals.items()
        if isinstance(value, kept)
        or typing.get_origin(value) is not None
        or typing.is_typeddict(value)
        or is_alias(value)
    }


_INJECTED: Final[dict[str, type]] = {"Job": Job, "AsyncSession": AsyncSession, "Session": Session}
