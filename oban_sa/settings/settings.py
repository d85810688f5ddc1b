"""Frozen settings of a runner, made of what sources say or of `Runner`'s keywords."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oban_sa.errors import InvalidOption
from oban_sa.settings import sources
from oban_sa.settings.option import Option, rows, shown
from oban_sa.settings.options import Options
from oban_sa.settings.parsers import check_death


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Options):
    """The value of each option, checked; spans of time are seconds.

    `origins` maps the name of each setting that is not at its default to where it came from: `--queues`,
    `OBAN_QUEUES`, `oban.toml: queues`. The repr shows no password.
    """

    origins: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

    @property
    def schema(self) -> str:
        """The one schema; raises InvalidOption where there are several, which only a runner can work in at once."""
        schema, *others = self.schemas
        if others:
            origin = self.origins.get("schema", "schema")
            raise InvalidOption(
                f"{origin}: this works in one schema, and {', '.join(self.schemas)} are {len(self.schemas)}; "
                "name one with --schema"
            )
        return schema

    def described(self) -> list[str]:
        """Return one line for each setting: its name, its value without passwords, and where it came from."""
        told = [(each.name, shown(getattr(self, each.field))) for each in rows(type(self)) if each.only != "keyword"]
        names, values = (max(len(row[column]) for row in told) for column in (0, 1))
        values = min(values, 60)
        return [f"{name:<{names}}  {value:<{values}}  {self.origins.get(name, 'default')}" for name, value in told]


def load(
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings that these sources make; raises InvalidOption with the source of a wrong value.

    A flag wins over a variable, a variable over the file, and the file over the default. `file` is the one named by
    --config; without it OBAN_CONFIG names one, else `oban.toml` or the table `[tool.oban]` of `pyproject.toml` in the
    current folder is taken where there is one. `flags` are named as the settings are, or by a synonym; those that are
    None were not given.
    """
    options = rows(Settings)
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in (
        sources.from_file(options, file, environ),
        sources.from_environment(options, environ),
        sources.from_flags(options, flags or {}),
    ):
        if source.keys() >= {"database_url", "embedded"} and source["embedded"][0] is not None:
            url, embedded = source["database_url"][1], source["embedded"][1]
            raise InvalidOption(f"{embedded} and {url} both name a database; give only one of them")
        # A database named later replaces one of the other kind that was named earlier.
        for one, other in (("database_url", "embedded"), ("embedded", "database_url")):
            if one in source and source[one][0] is not None:
                values.pop(other, None)
                origins.pop(other, None)
        for name, (value, origin) in source.items():
            values[name], origins[name] = value, origin
    settings = Settings(**{each.field: values[each.name] for each in options if each.name in values}, origins=origins)
    try:
        check_death(settings.heartbeat_every, settings.dead_after)
    except InvalidOption as error:
        where = origins.get("dead_after") or origins.get("heartbeat_every", "dead_after")
        raise InvalidOption(f"{where}: {error}") from None
    return settings


def of_keywords(given: Mapping[str, object]) -> Settings:
    """Return the settings that the keywords of `Runner` make, all of them given; raises InvalidOption."""
    settings = Settings(**{each.field: _kept(each, given[each.name]) for each in rows(Settings) if each.keyword})
    check_death(settings.heartbeat_every, settings.dead_after)
    return settings


def to_keywords(settings: Settings) -> dict[str, Any]:
    """Return the keywords of `Runner` that say the same; those which are objects are not among them."""
    return {each.name: getattr(settings, each.field) for each in rows(Settings) if each.keyword}


def keyword(name: str, value: object) -> Any:
    """Return the value of one keyword as it is kept; raises InvalidOption with its name and what to write instead."""
    return next(_kept(each, value) for each in rows(Settings) if each.name == name)


def _kept(option: Option, value: object) -> Any:
    assert option.keyword is not None  # noqa: S101
    try:
        return option.keyword(value)
    except InvalidOption as error:
        message = str(error)
        named = message.startswith((f"{option.name}: ", f"{option.name} is "))
        raise type(error)(message if named else f"{option.name}: {message}") from None
