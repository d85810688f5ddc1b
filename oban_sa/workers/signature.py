"""Which args a worker takes, by name: for the args of a job, and for a SELECT, which has no values yet."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from oban_sa.arguments.mismatch import is_typed_dict, step
from oban_sa.errors import InvalidArguments, nearest


class Names(NamedTuple):
    """The args of a worker by name: all that are `known`, or None where any name will do, and the `required` ones."""

    what: str
    known: frozenset[str] | None = None
    required: tuple[str, ...] = ()

    def check(self, given: Collection[str]) -> None:
        """Accept the names of a job's args; raises `InvalidArguments` for one that is unknown, and for one missing."""
        if self.known is not None and not self.known.issuperset(given):
            unknown = next(name for name in given if name not in self.known)
            raise InvalidArguments(
                f"args has {unknown!r}, which {self.what} doesn't take{nearest(unknown, self.known)}",
                path=f"args{step(unknown)}",
            )
        for name in self.required:
            if name not in given:
                raise InvalidArguments(f"args lacks {name!r}, which {self.what} needs", path=f"args{step(name)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """The names of a worker's args, and what is said of some of them.

    `defaults` are written into a job that doesn't say otherwise. `entities` are those that name a mapped object, with
    its class.
    """

    names: Names
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict[str, object])
    entities: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


def names_of_fields(kind: Any, *, what: str) -> Names:
    """Return the names of the fields of a class, as far as it tells them."""
    if is_typed_dict(kind):
        return _of_typed_dict(kind, what)
    fields: dict[str, Any] = getattr(kind, "model_fields", {})
    if hasattr(kind, "model_validate_json"):
        # A field may be called otherwise in JSON, and by more than one name.
        aliased = any(getattr(field, "validation_alias", None) for field in fields.values())
        if aliased or kind.model_config.get("extra") == "allow":
            return Names(what)
        return Names(what, frozenset(fields), tuple(name for name, field in fields.items() if field.is_required()))
    if hasattr(kind, "__struct_encode_fields__"):
        encoded: tuple[str, ...] = kind.__struct_encode_fields__
        return Names(what, frozenset(encoded), encoded[: len(encoded) - len(kind.__struct_defaults__)])
    if dataclasses.is_dataclass(kind):
        taken = [field for field in dataclasses.fields(kind) if field.init]
        lacking = [
            field.name
            for field in taken
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        return Names(what, frozenset(field.name for field in taken), tuple(lacking))
    return Names(what)


def _of_typed_dict(kind: Any, what: str) -> Names:
    required: frozenset[str] = kind.__required_keys__
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:  # of an annotation that names what is defined later, only the name of the key is known
        hints = dict.fromkeys(kind.__annotations__)
    needed = [
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Required
        or (typing.get_origin(hint) is not typing.NotRequired and name in required)
    ]
    return Names(what, frozenset(hints), tuple(needed))
