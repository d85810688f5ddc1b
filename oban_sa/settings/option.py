"""What a row of settings says, and how sources spell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast

from oban_sa.describe.redaction import redacted, safe
from oban_sa.settings.parsers import url

D = TypeVar("D")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Only: TypeAlias = Literal["flag", "file", "keyword"]
"""The one source that has a setting; "keyword" is `Runner` alone."""

_ROW: Final = "option"


@dataclass(frozen=True, slots=True)
class Kind(Generic[R_co]):
    """What kind of value a setting has, and its rule; both callables raise `InvalidOption`."""

    read: Callable[[object], R_co]
    """Checks what a flag, a variable or a file says."""
    metavar: str | None = None
    """What the help calls the value of a flag: its unit; None for a flag without a value."""
    _: KW_ONLY
    keyword: Callable[[object], R_co] | None = None
    """Checks the keyword of `Runner`, where that has another rule."""
    many: bool = False
    """Whether a flag may be repeated."""
    bare: str | None = None
    """The value of a flag that may also stand without one."""
    imported: bool = False
    """Whether sources name an object as module:name; `Runner` takes the object, and its parts check it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row. `field` is the attribute of `Settings`; `name` what messages, origins and `Runner` call the setting."""

    field: str = ""
    name: str
    key: str
    """The word that sources have for it."""
    synonyms: tuple[str, ...]
    kind: Kind[Any]
    heading: str
    what: str
    default: str | None
    """What the help says of the default."""
    repeatable: str | None
    only: Only | None
    """None where flags, variables and files have it."""
    keyword: Callable[[object], object] | None
    """Checks the keyword of `Runner`; None where there is none, and for an imported object."""

    @property
    def words(self) -> tuple[str, ...]:
        """What sources call it: `key` and the synonyms. A flag, a variable or a key in files is made of each."""
        return (self.key, *self.synonyms)

    @property
    def help(self) -> str:
        """The help of the flag: what it sets; its default; whether it may be repeated. [its variable]."""
        said = "; ".join(each for each in (self.what, self.default, self.repeatable) if each)
        return f"{said}." if self.only else f"{said}. [{variable(self.key)}]"

    def stands_in(self, source: Literal["flag", "variable", "file"]) -> bool:
        """Whether this source may say it."""
        return self.only in (None, source)


def option(
    default: D,
    kind: Kind[R],
    heading: str,
    what: str,
    *,
    runner: bool = False,
    none: bool = False,
    only: Only | None = None,
    name: str = "",
    key: str = "",
    synonyms: tuple[str, ...] = (),
    says: str | None = None,
    repeatable: str = "repeatable",
    make: Callable[[], D] | None = None,
) -> D | R:
    """Make a field of `Settings` with a row of its own.

    `runner` is whether it is a keyword of `Runner`, which takes None where that is the default, or with `none`. `says`
    is the default as the help says it, where that is not the value. `make` makes the default, for each `Settings` anew.
    """
    rule = kind.keyword or kind.read
    row = Option(
        name=name,
        key=key,
        synonyms=synonyms,
        kind=kind,
        heading=heading,
        what=what,
        default=says or (shown(default) if default else None),
        repeatable=repeatable if kind.many else None,
        only=only,
        keyword=(or_none(rule) if none or default is None else rule) if runner else None,
    )
    metadata, shows = {_ROW: row}, kind.read is not url  # a URL may hold a password
    if make is not None:
        return field(default_factory=make, repr=shows, metadata=metadata)
    return field(default=default, repr=shows, metadata=metadata)


def or_none(rule: Callable[[object], object]) -> Callable[[object], object]:
    """Return the rule that takes None too."""
    return lambda value: None if value is None else rule(value)


def rows(settings: type) -> tuple[Option, ...]:
    """Return the rows of a class of settings, in their order."""
    found: list[Option] = []
    for each in fields(settings):
        row: Option | None = each.metadata.get(_ROW)
        if row is not None:
            name = row.name or each.name
            found.append(replace(row, field=each.name, name=name, key=row.key or name))
    return tuple(found)


def flag(word: str) -> str:
    """Return the flag that is made of a word."""
    return f"--{word.replace('_', '-')}"


def variable(word: str) -> str:
    """Return the variable that is made of a word."""
    return f"OBAN_{word.upper()}"


def shown(value: object) -> str:
    """Return a value as the help and `--dry-run` show it, without passwords."""
    match value:
        case None | () | False:
            return "-"
        case str() if "://" in value:
            return safe(value)
        case tuple():
            names = cast("tuple[object, ...]", value)
            return ",".join("none" if each is None else redacted(str(each)) for each in names)
        case Mapping():
            return ",".join(f"{name}:{limit}" for name, limit in cast("Mapping[str, object]", value).items())
        case float():
            return f"{value:g}"
        case True:
            return "yes"
        case _:
            return str(value)
