"""Kinds of argument that hold others: lists, sets, tuples, objects, and unions of several kinds."""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, Final

from oban_sa.arguments.entities import Entity
from oban_sa.arguments.mismatch import Decode, Gone, Locked, Misfit, at, hidden, shown
from oban_sa.arguments.round_trip import APART, Changed, Kind, Same, of_class, parts, veiled
from oban_sa.arguments.scalars import ANYTHING, NULL, SCALARS, as_is, from_key
from oban_sa.errors import nearest


def listed(item: Kind, *, accepts: Any) -> Kind:
    """Return the kind of a list of `item`; where types are compared, what is given has to be an `accepts`."""

    def same(given: object, came: Any, strict: bool) -> None:
        if isinstance(given, _SETS):
            raise Changed(given, came, "; write sorted(value), or annotate it as a set")
        if not isinstance(given, _LISTS) or (strict and not isinstance(given, accepts)):
            raise Changed(given, came)
        parts([(index, item.same, *pair) for index, pair in enumerate(zip(given, came, strict=True))], strict)

    return Kind(_collection(list, item.read), same, item.choosy)


def many(item: Kind) -> Kind:
    """Return the kind of a tuple of any length."""

    def same(given: Any, came: Any, strict: bool) -> None:
        if isinstance(given, _SETS):
            raise Changed(given, came, "; write tuple(sorted(value)), or annotate it as a set")
        if not isinstance(given, tuple if strict else _LISTS):
            raise Changed(given, came)
        parts([(index, item.same, *pair) for index, pair in enumerate(zip(given, came, strict=True))], strict)

    return Kind(_collection(tuple, item.read), same, item.choosy)


def unordered(make: type[Any], item: Kind) -> Kind:
    """Return the kind of a set, which is written as a list."""

    def same(given: object, came: Any, strict: bool) -> None:
        if isinstance(given, _LISTS) and not strict:
            return  # it was a list already
        if not isinstance(given, _SETS) or (strict and not isinstance(given, make)) or len(given) != len(came):
            raise Changed(given, came)
        back = {(type(each), each) for each in came}
        for each in given:
            if (type(each), each) not in back and not any(_fits(item.same, each, other, strict) for other in came):
                raise Changed(given, came)

    return Kind(_collection(make, item.read), same, item.choosy)


def _fits(same: Same, given: object, came: object, strict: bool) -> bool:
    try:
        same(given, came, strict)
    except Misfit:
        return False
    # A text fits anything that is read from text, so that in a set of several a lost value would go unnoticed.
    return bool(given == came) or type(given) is type(came)


def _collection(make: type[Any], decode: Decode) -> Decode:
    def collection(value: object) -> object:
        if not isinstance(value, list):
            raise Misfit("must be a list", found=value)
        if isinstance(decode, Entity):
            decode.prefetch(value)
        try:
            return make(value if decode is as_is else [at(index, decode, item) for index, item in enumerate(value)])
        except TypeError as error:
            raise Misfit(f"can't be a {make.__name__}: {error}") from None

    return collection


def tupled(items: list[Kind]) -> Kind:
    """Return the kind of a tuple with an item of each of these kinds."""
    decoders = [item.read for item in items]

    def decode(value: object) -> object:
        if not isinstance(value, list) or len(value) != len(decoders):
            raise Misfit(f"must be a list of {len(decoders)}", found=value)
        return tuple([at(index, decoders[index], item) for index, item in enumerate(value)])

    def same(given: Any, came: Any, strict: bool) -> None:
        if not isinstance(given, tuple if strict else _LISTS):
            raise Changed(given, came)
        pairs = zip(items, given, came, strict=True)
        parts([(index, item.same, here, there) for index, (item, here, there) in enumerate(pairs)], strict)

    return Kind(decode, same, any(item.choosy for item in items))


def named_tuple(cls: Callable[..., object], items: list[Kind]) -> Kind:
    """Return the kind of a `NamedTuple`, which is written as a list."""
    whole = tupled(items)

    def same(given: object, came: object, strict: bool) -> None:
        if type(given) is not type(came) and type(given) not in _LISTS:
            raise Changed(given, came)
        whole.same(given, came, False if type(given) is list else strict)

    return Kind(lambda value: cls(*whole.read(value)), same, whole.choosy)


def mapping(key: Kind, item: Kind) -> Kind:
    """Return the kind of a dict; its keys are written as text."""
    read_key = None if key.read in _TEXTS else from_key(key.read)
    decode = item.read

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise Misfit("must be an object", found=value)
        if read_key is None:
            return value if decode is as_is else {name: at(name, decode, each) for name, each in value.items()}
        return {_key(read_key, name): at(name, decode, each) for name, each in value.items()}

    def same(given: object, came: Any, strict: bool) -> None:
        if not isinstance(given, dict) or len(given) != len(came):
            raise Changed(given, came)
        for (name, here), (back, there) in zip(given.items(), came.items(), strict=True):
            if name is not back:
                _check_key(key.same, name, back, strict)
            parts([(str(name), item.same, here, there)], strict)

    return Kind(read, same, key.choosy or item.choosy)


def _check_key(same: Same, name: object, back: object, strict: bool) -> None:
    try:
        if type(name) is not str and type(back) is str and name != back:  # a number, whose text is no key of the kind
            raise Changed(name, back)
        same(name, back, strict)
    except Misfit:
        kind = type(name).__name__
        raise Misfit(
            f"has the key {shown(name)}, which would come back as {shown(back)}; "
            f"write str(key), or annotate the keys as {kind}"
        ) from None


def _key(read: Callable[[str], object], name: str) -> object:
    try:
        made = read(name)
        hash(made)
    except Misfit as misfit:
        raise Misfit(f"has the key {name!r}, which {misfit.reason}") from None
    except TypeError as error:
        raise Misfit(f"has the key {name!r}, which can't be one: {error}") from None
    return made


def union(members: list[Kind]) -> Kind:
    """Return the kind of a union: what the first member that fits makes of it."""
    decoders = [member.read for member in members]
    nullable = NULL in members
    others = [member for member in members if member is not NULL]

    def decode(value: object) -> object:
        if value is None and nullable:
            return None
        misfits: list[Misfit] = []
        for member in decoders:
            try:
                return member(value)
            except (Gone, Locked):  # it was this member that was meant
                raise
            except Misfit as misfit:
                if member is not NULL.read:
                    misfits.append(misfit)
        if len(misfits) == 1:
            raise misfits[0]
        secret = any(each.secret for each in misfits)
        for each in misfits:
            each.secret = secret
        raise Misfit(", or ".join(dict.fromkeys(each.reason for each in misfits)))

    def same(given: object, came: object, strict: bool) -> None:
        if given is None or came is None:
            if given is not came:
                raise Changed(given, came)
            return
        if len(others) == 1:
            others[0].same(given, came, strict)
            return
        found: list[Misfit] = []
        for member in others:
            try:
                member.same(given, came, True)
            except Misfit as misfit:
                found.append(misfit)
            else:
                return
        if type(given) is type(came):
            raise max(found, key=lambda misfit: len(misfit.steps))
        raise Changed(given, came, _told_apart(came))

    return Kind(decode, same, len(others) > 1 or any(member.choosy for member in others))


def _told_apart(came: object) -> str:
    name = type(came).__name__
    apart = "" if type(came).__module__ == "builtins" else f", or {APART}"
    return f"; the first member of the union that fits is taken: write {name} last{apart}"


def fields(
    name: str,
    kinds: Mapping[str, Kind],
    required: Sequence[str],
    *,
    make: Callable[..., object],
    get: Callable[[Any, str], object],
    computed: Mapping[str, Same] = MappingProxyType({}),
    secret: AbstractSet[str] = frozenset(),
    unkept: AbstractSet[str] = frozenset(),
    compared: Sequence[str] | None = None,
) -> Kind:
    """Return the kind of what has named fields.

    `get` gives a field of a value; `compared` are those that have to come back, or all that a dict has. A row may hold
    what the class has `computed`, which is passed over; what is `unkept` can't be read from a value. Of `secret` ones
    no message shows a value.
    """
    decoders = {key: hidden(kind.read) if key in secret else kind.read for key, kind in kinds.items()}
    sames = {**computed, **{key: kind.same for key, kind in kinds.items()}}
    sames |= {key: veiled(sames[key]) for key in secret if key in sames}

    def decode(value: object) -> object:
        if not isinstance(value, dict):
            misfit = Misfit(f"must be an object with the fields of {name}", found=value)
            misfit.secret = bool(secret)
            raise misfit
        made: dict[str, object] = {}
        for key, item in value.items():
            field = decoders.get(key)
            if field is None:
                if key in computed:
                    continue
                raise Misfit(f"has {key!r}, which {name} doesn't{nearest(key, decoders)}")
            made[key] = at(key, field, item)
        for key in required:
            if key not in made:
                raise Misfit(f"lacks {key!r}, which {name} needs{_UNKEPT if key in unkept else ''}")
        try:
            return make(**made)
        except (ValueError, TypeError) as error:  # a dataclass's own __init__ or __post_init__ refuses
            raise Misfit(f"is no {name}: {error}") from error

    def same(given: Any, came: Any, strict: bool) -> None:
        if type(given) is not type(came):
            if isinstance(given, dict):  # it was an object already
                return
            raise Changed(given, came, of_class(given))
        pairs = [(key, get(given, key), get(came, key)) for key in (given if compared is None else compared)]
        parts([(key, sames.get(key, ANYTHING.same), here, there) for key, here, there in pairs], strict)

    return Kind(decode, same, any(kind.choosy for kind in kinds.values()))


_UNKEPT: Final = (
    "; it is an InitVar, which the dataclass doesn't keep, so it can't be written: give it a default, "
    "make it a field, or give a dict that has it"
)
_LISTS: Final = (list, tuple)
_SETS: Final = (set, frozenset)
_TEXTS: Final = (as_is, SCALARS[str].read)
