"""What a reference points at: whether it may, its value as far as it is known, and its value after the flush."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import ClauseElement
from sqlalchemy.orm import InstanceState, Mapper, Session, object_session
from sqlalchemy.orm.attributes import instance_state

from oban_sa.errors import InvalidArguments, ReferenceOutsideSession, nearest
from oban_sa.jobs.references import Reference

_MISSING: Final = object()


def check(session: Session, value: Any, *, where: str) -> None:
    """Accept plain JSON values whose references all point at objects of `session`, and at values JSON could hold.

    Raises `ReferenceOutsideSession` for objects that are elsewhere, `InvalidArguments` for what can't be referred to.
    """
    for path, reference in references(value, where):
        state = _mapped(reference.target)
        if state is None:
            raise InvalidArguments(
                f"{path} is {reference!r}, and ref() takes an object of a mapped class; write the value itself",
                path=path,
            )
        if reference.entity is not None and state.identity is not None:
            continue  # a key doesn't change, wherever its object has gone since
        if state.session is not session:
            raise ReferenceOutsideSession(f"{path} is {reference!r}, and that object {_elsewhere(state)}")
        _check_attribute(state.mapper, reference, path)


def entity(target: Any) -> Reference:
    """Return the reference to a mapped object itself, until `settled` or `final` says what is written of it."""
    return Reference(target, entity=entity_name(instance_state(target).mapper))


def entity_name(mapper: Mapper[Any]) -> str:
    """Return the name of a mapped class in rows, with its module where a class of its hierarchy has the same name."""
    cls = mapper.class_
    for relative in mapper.base_mapper.self_and_descendants:
        if relative is not mapper and relative.class_.__name__ == cls.__name__:
            return f"{cls.__module__}.{cls.__qualname__}"
    return cls.__name__


def settled(reference: Reference) -> Any:
    """Return what is written of an object that has its key; any other reference as it is.

    Raises `ReferenceOutsideSession` for an object that was deleted, or will be by the next flush.
    """
    if reference.entity is None:
        return reference
    state: InstanceState[Any] = instance_state(reference.target)
    if state.identity is None:
        return reference
    session = object_session(reference.target)
    if state.was_deleted or (session is not None and reference.target in session.deleted):
        raise ReferenceOutsideSession(
            f"{reference!r} with the key {_shown(state.identity)} is deleted, so no worker could load it; "
            f"write ref(obj) for its key, or the attributes that are needed"
        )
    return _identified(reference.entity, state.identity)


def known(reference: Reference) -> Any:
    """Return the value of a reference as far as it is known without asking the database, or None."""
    if reference.entity is not None:
        return _identity(reference)
    value = _loaded(reference)
    return None if value is _MISSING else value


def is_known(reference: Reference) -> bool:
    """Whether the value of a reference, which may be None, is known without asking the database."""
    return _identity(reference) is not None if reference.entity is not None else _loaded(reference) is not _MISSING


def final(reference: Reference) -> Any:
    """Return the value of a reference after the flush; reads from the database what the flush left unloaded.

    Raises `ReferenceOutsideSession` where it has none even then.
    """
    if reference.entity is not None:
        identity = _identity(reference)
        if identity is None:
            raise ReferenceOutsideSession(
                f"{reference!r} still has no key after the flush; flush the object together with the job"
            )
        return identity
    value = _loaded(reference)
    if value is not _MISSING:
        return value
    target, state = reference.target, instance_state(reference.target)
    if reference.attribute is None or state.session is None:
        raise ReferenceOutsideSession(f"{reference!r} still has no key after the flush; flush its object with the job")
    if target in state.session.deleted:
        raise ReferenceOutsideSession(
            f"{reference!r} can't be read, as the same flush deletes its object; read the value before deleting it"
        )
    return getattr(target, reference.attribute)


def references(value: Any, path: str) -> Iterator[tuple[str, Reference]]:
    """Yield the references inside plain JSON values, each with the path to it: "args.user"."""
    kind = value.__class__
    if kind is Reference:
        yield path, value
    elif kind is dict:
        for key, item in value.items():
            yield from references(item, f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]")
    elif kind is list:
        for index, item in enumerate(value):
            yield from references(item, f"{path}[{index}]")


def _mapped(target: object) -> InstanceState[Any] | None:
    try:
        return instance_state(target)
    except AttributeError:
        return None


def _check_attribute(mapper: Mapper[Any], reference: Reference, path: str) -> None:
    attribute, name = reference.attribute, mapper.class_.__name__
    if reference.entity is not None:
        return
    if attribute is None:
        if len(mapper.primary_key) > 1:
            keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
            each = ", ".join(f"ref(obj, {key!r})" for key in keys)
            raise InvalidArguments(
                f"{path} is {reference!r}, and {name} has a primary key of {len(keys)} columns; write {each}", path=path
            )
    elif attribute in mapper.relationships:
        raise InvalidArguments(
            f"{path} is {reference!r}, and {attribute!r} is a relationship; refer to its object: ref(obj.{attribute})",
            path=path,
        )
    elif not _has(reference.target, attribute):
        choices = [key for key in mapper.all_orm_descriptors.keys() if key not in mapper.relationships]  # noqa: SIM118
        raise InvalidArguments(
            f"{path} is {reference!r}, and {name} has no attribute {attribute!r}{nearest(attribute, choices)}",
            path=path,
        )


def _has(target: object, attribute: str) -> bool:
    # To ask the object for it would run a hybrid, or what a property does, which may have to load something: in an
    # asynchronous session that is possible in the flush, and not here.
    if attribute in vars(target) or inspect.getattr_static(type(target), attribute, _MISSING) is not _MISSING:
        return True
    if not hasattr(type(target), "__getattr__"):
        return False
    try:
        return hasattr(target, attribute)
    except Exception:  # it will be there, or fail, where it is read
        return True


def _elsewhere(state: InstanceState[Any]) -> str:
    if state.session is not None:
        return "is in another session; enqueue the job in that one, or write the value itself"
    if state.detached:
        return "is detached; take it into this session with session.merge(obj), or write the value itself"
    return "is in no session; session.add(obj) first"


def _identity(reference: Reference) -> dict[str, Any] | None:
    """Return what is written of an object, or None where it has no key yet."""
    state: InstanceState[Any] = instance_state(reference.target)
    mapper = state.mapper
    identity = state.identity or tuple(
        state.dict.get(mapper.get_property_by_column(column).key) for column in mapper.primary_key
    )
    if any(value is None or hasattr(value, "__clause_element__") for value in identity):
        return None
    if any(isinstance(value, ClauseElement) for value in identity):
        return None
    return _identified(str(reference.entity), identity)


def _identified(entity: str, identity: tuple[Any, ...]) -> dict[str, Any]:
    return {"entity": entity, "id": identity[0] if len(identity) == 1 else list(identity)}


def _shown(identity: tuple[Any, ...]) -> str:
    return repr(identity[0]) if len(identity) == 1 else repr(identity)


def _loaded(reference: Reference) -> Any:
    state: InstanceState[Any] = instance_state(reference.target)
    key = reference.attribute
    if key is None:
        mapper = state.mapper
        key = mapper.get_property_by_column(mapper.primary_key[0]).key
        if state.dict.get(key) is None:
            return _MISSING if state.identity is None else state.identity[0]
    value = state.dict.get(key, _MISSING)
    # A SQL expression stands there until the flush has sent it and loaded what the database made of it.
    return _MISSING if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__") else value
