"""What a reference points at: whether it may, what it is worth by now, and what it turned out to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import ClauseElement
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.attributes import instance_state

from oban_sa.errors import InvalidArguments, ReferenceOutsideSession, nearest
from oban_sa.references import Reference

_MISSING: Final = object()


def check(session: Session, value: Any, *, where: str) -> None:
    """Accept plain JSON values whose references all point at objects of `session`, and at values JSON could hold.

    Raises `ReferenceOutsideSession` for objects that are elsewhere, `InvalidArguments` for what can't be referred to.
    """
    for path, reference in _references(value, where):
        state = _mapped(reference.target)
        if state is None:
            raise InvalidArguments(
                f"{path} is {reference!r}, and ref() takes an object of a mapped class; write the value itself",
                path=path,
            )
        if state.session is not session:
            raise ReferenceOutsideSession(f"{path} is {reference!r}, and that object {_elsewhere(state)}")
        _check_attribute(state.mapper, reference, path)


def known(reference: Reference) -> Any:
    """Return what a reference is worth by now without asking the database, or None."""
    value = _loaded(reference)
    return None if value is _MISSING else value


def final(reference: Reference) -> Any:
    """Return what a reference is worth after the flush; reads from the database what the flush left unloaded."""
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


def _references(value: Any, path: str) -> Iterator[tuple[str, Reference]]:
    kind = value.__class__
    if kind is Reference:
        yield path, value
    elif kind is dict:
        for key, item in value.items():
            yield from _references(item, f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]")
    elif kind is list:
        for index, item in enumerate(value):
            yield from _references(item, f"{path}[{index}]")


def _mapped(target: object) -> InstanceState[Any] | None:
    try:
        return instance_state(target)
    except AttributeError:
        return None


def _check_attribute(mapper: Mapper[Any], reference: Reference, path: str) -> None:
    attribute, name = reference.attribute, mapper.class_.__name__
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
    elif not hasattr(mapper.class_, attribute) and not hasattr(reference.target, attribute):
        choices = [key for key in mapper.all_orm_descriptors.keys() if key not in mapper.relationships]  # noqa: SIM118
        raise InvalidArguments(
            f"{path} is {reference!r}, and {name} has no attribute {attribute!r}{nearest(attribute, choices)}",
            path=path,
        )


def _elsewhere(state: InstanceState[Any]) -> str:
    if state.session is not None:
        return "is in another session; enqueue the job in that one, or write the value itself"
    if state.detached:
        return "is detached; take it into this session with session.merge(obj), or write the value itself"
    return "is in no session; session.add(obj) first"


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
