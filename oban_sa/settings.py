"""Frozen settings of a runner, read from defaults, a file, the environment and flags; the later source wins.

An unset or empty variable never overrides. Whatever is refused is refused with the place where it stood:
`OBAN_QUEUES: ...`, `--queues: ...`, `oban.toml: queues: ...`.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

from oban_sa.cronentry import CronEntry
from oban_sa.errors import InvalidOption, nearest
from oban_sa.passwords import redacted, safe
from oban_sa.readings import READ, check_death
from oban_sa.retention import Prune


def default_node() -> str:
    """Return `host.pid`: two runners on one machine are two nodes."""
    return f"{socket.gethostname() or 'localhost'}.{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a runner is told, checked; spans of time are seconds.

    `origins` maps each setting that is not at its default to the place it came from. The repr shows no password.
    """

    database_url: str | None = field(default=None, repr=False)
    listen_url: str | None = field(default=None, repr=False)
    pooler: bool = False
    embedded: Path | None = None
    queues: Mapping[str, int] = field(default_factory=lambda: {"default": 10})
    imports: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    crontab: tuple[CronEntry, ...] = ()
    schemas: tuple[str, ...] = ("public",)
    translate: tuple[str | None, ...] = ()
    name: str = "Oban"
    node: str = field(default_factory=default_node)
    grace: float = 15.0
    heartbeat_every: float = 5.0
    dead_after: float = 30.0
    abandoned_after: float | None = None
    keep_young_after: float | None = 60.0
    unknown_after: float = 3600.0
    metrics: bool = False
    prune: Prune | None = field(default_factory=Prune)
    middleware: tuple[str, ...] = ()
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    blocked_after: float = 1.0
    sessions: str | None = None
    idle_in_transaction_after: float = 30.0
    poll_every: float = 1.0
    stage_every: float = 1.0
    processes: int = 1
    process_pool: int | None = None
    recycle_after: int | None = None
    until_idle: bool = False
    dry_run: bool = False
    log_level: str = "info"
    log_format: str = "text"
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
        values_of = [(_SETTING.get(each.name, each.name), getattr(self, each.name)) for each in fields(self)]
        rows = [(name, _shown(value)) for name, value in values_of if name != "origins"]
        names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        values = min(values, 60)
        return [f"{name:<{names}}  {value:<{values}}  {self.origins.get(name, 'default')}" for name, value in rows]


def load(
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings that these sources make; raises InvalidOption naming the source of whatever is wrong.

    `file` is the one named by --config; without it OBAN_CONFIG names one, else `oban.toml` or the table `[tool.oban]`
    of `pyproject.toml` in the current folder is taken where there is one. `flags` are named as the settings are, or
    by a synonym; those that are None were not given.
    """
    environ = os.environ if environ is None else environ
    sources = (_from_file(file, environ), _from_environment(environ), _from_flags(flags or {}))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in sources:
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
    named = {_FIELD.get(name, name): value for name, value in values.items()}
    settings = Settings(**named, origins=origins)
    try:
        check_death(settings.heartbeat_every, settings.dead_after)
    except InvalidOption as error:
        where = origins.get("dead_after") or origins.get("heartbeat_every", "dead_after")
        raise InvalidOption(f"{where}: {error}") from None
    return settings


def _shown(value: object) -> str:
    match value:
        case None | () | False:
            return "-"
        case str() if "://" in value:
            return safe(value)
        case tuple():
            names = cast("tuple[object, ...]", value)
            return ",".join("none" if each is None else redacted(str(each)) for each in names)
        case Mapping():
            return ",".join(f"{name}:{limit}" for name, limit in cast("Mapping[str, int]", value).items())
        case float():
            return f"{value:g}"
        case True:
            return "yes"
        case _:
            return str(value)


# Sources

_SETTING: Final = {"schemas": "schema"}
"""Fields whose settings are called otherwise: whoever writes one schema writes `schema`."""

_FIELD: Final = {setting: name for name, setting in _SETTING.items()}

_SYNONYMS: Final = {"dsn": "database_url", "prefix": "schema", "import": "imports", "cron": "crontab"}
_ONLY_FLAGS: Final = frozenset({"until_idle", "dry_run"})
_KEYS: Final = (READ.keys() | _SYNONYMS.keys()) - _ONLY_FLAGS - {"imports"}
_VARIABLES: Final = {f"OBAN_{key.upper()}": key for key in _KEYS - {"crontab", "cron"}}

_Source = dict[str, tuple[Any, str]]


def _read(given: Mapping[str, object], origin: Callable[[str], str]) -> _Source:
    """Check what one source gives; synonyms may repeat each other but not disagree."""
    source: _Source = {}
    for key, raw in given.items():
        name, where = _SYNONYMS.get(key, key), origin(key)
        try:
            value = READ[name](raw)
        except InvalidOption as error:
            if isinstance(raw, str) and "://" in raw and "@" in raw and READ[name] is not READ["database_url"]:
                raise InvalidOption(f"{where}: this is a URL, which the setting does not take") from None
            raise InvalidOption(f"{where}: {error}") from None
        if name in source and source[name][0] != value:
            raise InvalidOption(f"{source[name][1]} and {where} mean the same and disagree; give only one of them")
        source[name] = (value, where)
    return source


def _from_flags(flags: Mapping[str, object]) -> _Source:
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    for key in given:
        if key not in READ and key not in _SYNONYMS:
            raise InvalidOption(f"unknown setting {key!r}{nearest(key, [*READ, *_SYNONYMS])}")
    return _read(given, lambda key: "--" + {"imports": "import"}.get(key, key).replace("_", "-"))


def _from_environment(environ: Mapping[str, str]) -> _Source:
    given = {key: environ[variable] for variable, key in _VARIABLES.items() if environ.get(variable, "").strip()}
    for variable in environ:
        # Variables of others may start with OBAN_ too (Kubernetes makes OBAN_PORT for a service named oban), so only
        # what can hardly be anything but a misspelling is refused.
        if variable.startswith("OBAN_") and variable not in _VARIABLES and variable != "OBAN_CONFIG":
            words = [known.removeprefix("OBAN_") for known in (*_VARIABLES, "OBAN_CONFIG")]
            if near := difflib.get_close_matches(variable.removeprefix("OBAN_"), words, n=1, cutoff=0.85):
                raise InvalidOption(f"{variable}: there is no such variable; did you mean OBAN_{near[0]}?")
    return _read(given, lambda key: f"OBAN_{key.upper()}")


def _from_file(file: str | Path | None, environ: Mapping[str, str]) -> _Source:
    table, where = _table(file, environ)
    given: dict[str, object] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key in _ONLY_FLAGS:
            raise InvalidOption(f"{where}: {written} is no setting; give it as the flag --{key.replace('_', '-')}")
        if key not in _KEYS and key != "imports":
            raise InvalidOption(f"{where}: unknown setting {written!r}{nearest(key, _KEYS)}")
        given[key] = value
    return _read(given, lambda key: f"{where}: {key}")


def _table(file: str | Path | None, environ: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
    """Return the table of settings of the file to read, and how messages call that file."""
    named = file or environ.get("OBAN_CONFIG", "").strip()
    if named:
        path, by = Path(named).expanduser(), "--config" if file else "OBAN_CONFIG"
        if not path.is_file():
            raise InvalidOption(f"{by}: there is no file {str(path)!r}")
        content = _toml(path)
        return (_tool(content) or {}) if path.name == "pyproject.toml" else content, str(named)
    if Path("oban.toml").is_file():
        return _toml(Path("oban.toml")), "oban.toml"
    if Path("pyproject.toml").is_file() and (table := _tool(_toml(Path("pyproject.toml")))):
        return table, "pyproject.toml: [tool.oban]"
    return {}, ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}") from None


def _tool(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    table = content.get("tool", {}).get("oban")
    return cast("Mapping[str, Any]", table) if isinstance(table, Mapping) else None
