"""Mapped objects as arguments: which annotations ask for them, and what a row may say to name one.

What a job's row holds is `{"entity": "User", "id": 7}`; the key of several columns is a list. The annotation alone
decides which class is loaded. The row only says which of its rows, and the name it gives must be that of the class or
of one that inherits from it. So a row can make a runner load nothing but what the worker's author wrote into its
signature: nothing is looked up by name, and nothing imported.
"""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeGuard

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.interfaces import ORMOption

from oban_sa.arguments.locks import ForUpdate
from oban_sa.arguments.mismatch import Decode, Misfit, at, is_typed_dict, shown
from oban_sa.errors import InvalidArguments, InvalidOption, articled
from oban_sa.jobs.references import Reference
from oban_sa.outbox.references import entity_name, references


class Unloaded(Exception):
    """No session is here to load rows: it is only checked whether the JSON could name one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row: through which mapper it is read, and its primary key."""

    mapper: Mapper[Any]
    key: tuple[object, ...]

    def __str__(self) -> str:
        return repr(self.key[0] if len(self.key) == 1 else self.key)


class Rows(Protocol):
    """Where mapped objects come from."""

    def one(self, entity: Entity, row: Row) -> object:
        """Return the object; raises a `Misfit` where there is none."""
        ...

    def prefetch(self, entity: Entity, values: Sequence[object]) -> None:
        """Load what several JSON values name by one statement, to be asked for one by one."""
        ...

    def take(self, reference: Reference) -> None:
        """Take note of a mapped object that stands, in a new job, where the worker takes one."""
        ...


class _NoRows:
    """Where there is no session: nothing is loaded, and nothing noted."""

    def one(self, entity: Entity, row: Row) -> object:
        raise Unloaded

    def prefetch(self, entity: Entity, values: Sequence[object]) -> None:
        pass

    def take(self, reference: Reference) -> None:
        pass


class _Taken(_NoRows):
    """Where a job is made: the references that the worker takes are noted, by their `id()`."""

    def __init__(self) -> None:
        self.accepted = set[int]()

    def take(self, reference: Reference) -> None:
        self.accepted.add(id(reference))


# Not a parameter: a decoder takes a JSON value alone, is made once for each worker, and may be called by pydantic. The
# session belongs to one attempt, of which several run at once, in tasks and in threads.
rows: Final[ContextVar[Rows]] = ContextVar("oban_sa.rows", default=_NoRows())  # noqa: B039 - it has no state
"""Where the mapped objects come from that are decoded now."""


@contextmanager
def taking() -> Generator[set[int]]:
    """Note which mapped objects a worker takes, while the args of a new job are checked.

    What can only be checked by loading a row is let pass.
    """
    taken = _Taken()
    token = rows.set(taken)
    try:
        yield taken.accepted
    except Unloaded:
        pass
    finally:
        rows.reset(token)


def refuse_untaken(plain: object, accepted: set[int], *, what: str, where: str) -> None:
    """Raise `InvalidArguments` for a mapped object that stands where nothing would load it."""
    for path, reference in references(plain, where):
        if reference.entity is not None and id(reference) not in accepted:
            name = type(reference.target).__name__
            raise InvalidArguments(
                f"{path} is a mapped {name}, and {what} asks for none there; annotate it as {name}, "
                f"or write ref(obj) for its key, or the attributes that are needed",
                path=path,
            )


def waits(plain: object) -> bool:
    """Whether values stand inside that are not known before the flush, so that their types can't be checked."""
    return any(reference.entity is None for _, reference in references(plain, ""))


class How(NamedTuple):
    """How objects are loaded: with which lock, and which loader options."""

    lock: ForUpdate | None = None
    options: tuple[ORMOption, ...] = ()


class Entity:
    """The decoder of a mapped class; `nullable` where the annotation allows None as well."""

    def __init__(self, cls: Any, how: How, decoder_of: Callable[[object], Decode], *, nullable: bool) -> None:
        self.mapper: Mapper[Any] = cls.__mapper__
        self.name: str = cls.__name__
        self.how = how
        self.nullable = nullable
        self._columns: list[Decode] | None = None
        self._decoder_of = decoder_of

    def __call__(self, value: object) -> object:
        """Return the object that a JSON value names; at `new`, where the object itself still stands there, that one."""
        if type(value) is Reference:
            return self._given(value)
        return rows.get().one(self, self.row(value))

    def prefetch(self, values: Sequence[object]) -> None:
        """Load the rows of several values by one statement, where they are to be loaded."""
        if len(values) > 1:
            rows.get().prefetch(self, values)

    def row(self, value: object) -> Row:
        """Return which row a JSON value names; raises `Misfit`."""
        if not isinstance(value, dict) or value.keys() != {"entity", "id"}:
            raise Misfit(
                f'must be {articled(self.name)}, as {{"entity": "{self.name}", "id": ...}}, not {shown(value)}'
            )
        mapper = self._mapper_of(value["entity"])
        columns = self._decoders()
        if len(columns) == 1:
            return Row(mapper, (at("id", columns[0], value["id"]),))
        given = value["id"]
        if not isinstance(given, list) or len(given) != len(columns):
            keys = ", ".join(self.mapper.get_property_by_column(each).key for each in self.mapper.primary_key)
            raise Misfit(f"has the id {shown(given)}, and the key of {self.name} is a list of {keys}")
        return Row(mapper, tuple(at("id", decode, each) for decode, each in zip(columns, given, strict=True)))

    def _mapper_of(self, name: object) -> Mapper[Any]:
        for mapper in self.mapper.self_and_descendants:
            if name in (mapper.class_.__name__, entity_name(mapper)):
                # Read through the annotated class: SQLAlchemy makes of the row the subclass that it is by now. Only the
                # tables of concrete inheritance are not part of their base's.
                return mapper if mapper.concrete else self.mapper
        raise Misfit(f"is of the entity {shown(name)}, and must be {articled(self.name)}")

    def _given(self, reference: Reference) -> object:
        target = reference.target
        if reference.entity is None:
            raise Misfit(
                f"must be {articled(self.name)} and not its key; give the object itself instead of {reference!r}"
            )
        if not isinstance(target, self.mapper.class_):
            raise Misfit(f"must be {articled(self.name)}, not {articled(type(target).__name__)}")
        rows.get().take(reference)
        return target

    def _decoders(self) -> list[Decode]:
        if self._columns is None:
            self._columns = [self._decoder_of(_python_type(column)) for column in self.mapper.primary_key]
        return self._columns


def is_mapped(cls: Any) -> TypeGuard[type]:
    """Whether a class is mapped itself, and doesn't merely inherit from one."""
    mapper = getattr(cls, "__mapper__", None)
    return isinstance(mapper, Mapper) and mapper.class_ is cls


def how_of(metadata: Sequence[object]) -> How:
    """Return what the metadata of an `Annotated` says about loading."""
    locks = [each if isinstance(each, ForUpdate) else ForUpdate() for each in metadata if _is_lock(each)]
    if len(locks) > 1:
        raise InvalidOption(f"a row is locked in one way; keep one of {', '.join(map(repr, locks))}")
    return How(locks[0] if locks else None, tuple(each for each in metadata if isinstance(each, ORMOption)))


def says_how(annotation: object) -> bool:
    """Whether an `Annotated` says something about loading."""
    return any(_is_lock(each) or isinstance(each, ORMOption) for each in typing.get_args(annotation)[1:])


def _is_lock(each: object) -> bool:
    return each is ForUpdate or isinstance(each, ForUpdate)


def mapped_within(annotation: object, local: Mapping[str, object], seen: set[object] | None = None) -> Iterator[type]:
    """Yield the mapped classes that an annotation asks for, also inside the fields of others."""
    seen = set() if seen is None else seen
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        if is_mapped(annotation):
            yield annotation
        elif annotation not in seen and _has_fields(annotation):
            seen.add(annotation)
            for hint in _hints(annotation, local).values():
                yield from mapped_within(hint, local, seen)
        return
    if typing.get_origin(annotation) is typing.Literal:
        return
    alias = getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
    if alias is not None and annotation not in seen:  # `type JSON = dict[str, JSON] | ...` means itself
        seen.add(annotation)
        yield from mapped_within(alias, local, seen)
    args = typing.get_args(annotation)
    for arg in args[:1] if typing.get_origin(annotation) is Annotated else args:
        yield from mapped_within(arg, local, seen)
    origin = typing.get_origin(annotation)
    if isinstance(origin, type):
        yield from mapped_within(origin, local, seen)


def _has_fields(cls: object) -> bool:
    return (
        dataclasses.is_dataclass(cls)
        or is_typed_dict(cls)
        or hasattr(cls, "model_validate_json")
        or hasattr(cls, "__struct_fields__")
    )


def _hints(cls: type, local: Mapping[str, object]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, localns={**local, **vars(cls)}, include_extras=True)
    except Exception:  # the decoder that needs them says what is wrong
        return {}


def _python_type(column: ColumnElement[Any]) -> object:
    try:
        return column.type.python_type
    except NotImplementedError:
        return Any
