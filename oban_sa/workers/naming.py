"""Which args a worker takes, for those who have no values yet but their names."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from oban_sa import values
from oban_sa.errors import InvalidArguments, InvalidOption, nearest
from oban_sa.workers.class_body import ClassBody
from oban_sa.workers.definition import Definition
from oban_sa.workers.entities import is_mapped
from oban_sa.workers.fitting import step
from oban_sa.workers.function_body import FunctionBody
from oban_sa.workers.parameters import without_none


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """The args of a worker by name: `required` ones, all that are `known` or None where any name will do.

    `defaults` are written into a job that doesn't say otherwise. `entities` are those that name a mapped object, with
    its class.
    """

    what: str
    known: frozenset[str] | None = None
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    entities: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def check(self, given: Iterable[str]) -> None:
        """Accept the names of a job's args; raises `InvalidArguments` for one that is unknown, and for one missing."""
        names = list(given)
        for name in names:
            if self.known is not None and name not in self.known:
                raise InvalidArguments(
                    f"args has {name!r}, which {self.what} doesn't take{nearest(name, self.known)}",
                    path=f"args{step(name)}",
                )
        for name in self.required:
            if name not in names:
                raise InvalidArguments(f"args lacks {name!r}, which {self.what} needs", path=f"args{step(name)}")


def names_of(definition: Definition) -> Names:
    """Return the names of a worker's args, as far as its parameters or the type of its args say them."""
    body: Any = definition.body
    if isinstance(body, FunctionBody):
        return _of_function(body)
    try:
        annotation = cast("ClassBody", body)._args_annotation()
    except InvalidOption:  # it names what isn't defined yet
        return Names(body.what)
    return _of_fields(body.what, typing.get_origin(annotation) or annotation)


def _of_function(body: FunctionBody) -> Names:
    entities: dict[str, Any] = {}
    for parameter in body._parameters:
        annotation = without_none(body._resolved(parameter))
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = without_none(typing.get_args(annotation)[0])
        if is_mapped(annotation):
            entities[parameter.name] = annotation
    return Names(
        body.what,
        known=None if body._fields is not None else body._names,
        required=tuple(body._required),
        defaults={name: values.to_json(default, typed=values.Typed()) for name, default in body._defaults.items()},
        entities=entities,
    )


def _of_fields(what: str, kind: Any) -> Names:
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True) if _can_tell(kind) else dict.fromkeys(_annotated(kind))
        needed = [
            name
            for name, hint in hints.items()
            if typing.get_origin(hint) is typing.Required
            or (typing.get_origin(hint) is not typing.NotRequired and name in _required_keys(kind))
        ]
        return Names(what, frozenset(hints), tuple(needed))
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


def _can_tell(kind: Any) -> bool:
    try:
        typing.get_type_hints(kind)
    except NameError:
        return False
    return True


def _annotated(kind: Any) -> Iterable[str]:
    return cast("Iterable[str]", kind.__annotations__)


def _required_keys(kind: Any) -> frozenset[str]:
    return cast("frozenset[str]", kind.__required_keys__)


__all__: Final = ["Names", "names_of"]
