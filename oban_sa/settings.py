"""Frozen settings of a runner, read from defaults, a file, the environment and flags; the later source wins.

An unset or empty variable never overrides. Whatever is refused is refused with the place where it stood:
`OBAN_QUEUES: ...`, `--queues: ...`, `oban.toml: queues: ...`.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote_plus

from oban_sa.cronentry import CronEntry, entries
from oban_sa.errors import InvalidOption, nearest
from oban_sa.periods import seconds
from oban_sa.retention import Prune, read_prune

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("text", "json")
EMBEDDED_FOLDER: Final = "./.oban"


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
    schema: str = "public"
    name: str = "Oban"
    node: str = field(default_factory=default_node)
    grace: float = 15.0
    heartbeat_every: float = 5.0
    dead_after: float = 30.0
    abandoned_after: float | None = None
    metrics: bool = False
    prune: Prune | None = field(default_factory=Prune)
    middleware: tuple[str, ...] = ()
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    blocked_after: float = 1.0
    poll_every: float = 1.0
    stage_every: float = 1.0
    until_idle: bool = False
    dry_run: bool = False
    log_level: str = "info"
    log_format: str = "text"
    origins: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

    def described(self) -> list[str]:
        """Return one line for each setting: its name, its value without passwords, and where it came from."""
        rows = [(each.name, _shown(getattr(self, each.name))) for each in fields(self) if each.name != "origins"]
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
    settings = Settings(**values, origins=origins)
    if settings.dead_after < 2 * settings.heartbeat_every:
        where = origins.get("dead_after") or origins["heartbeat_every"]
        raise InvalidOption(
            f"{where}: with dead_after {settings.dead_after:g} and heartbeat_every {settings.heartbeat_every:g} "
            "one late beat would pass for death; make dead_after at least twice heartbeat_every"
        )
    return settings


def parse_queues(value: object) -> dict[str, int]:
    """Return queues and their limits from `default:10,mailers:5`, or from a table such as TOML's `{default = 10}`."""
    if isinstance(value, str):
        return _queues_from_text(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[object, object]", value)
        if not table:
            raise InvalidOption(f"no queue is named; {_QUEUES_EXAMPLE}")
        return {_queue_name(str(name)): _queue_limit(str(name), limit) for name, limit in table.items()}
    raise InvalidOption(f"{value!r} names no queues; {_QUEUES_EXAMPLE}")


def safe(url: str) -> str:
    """Return the URL with its passwords replaced by `***`, those in its query included."""
    scheme, separator, rest = url.partition("://")
    if separator:
        # A password may hold an unescaped "/", "?" or "@": hide too much of a malformed URL rather than too little.
        head, question, query = rest.partition("?")
        if "@" in query and re.match(r"[^/?]*:", rest):
            head, question, query = rest, "", ""
        user, at, host = head.rpartition("@")
        if at and ":" in user:
            user = f"{user.partition(':')[0]}:***"
        query = "&".join(_safe_parameter(parameter) for parameter in query.split("&"))
        return f"{scheme}://{user}{at}{host}{question}{query}"
    return re.sub(r"(?i)(\w*pass\w*\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1***", url)


def redacted(text: str) -> str:
    """Return the text with the passwords of all URLs in it replaced by `***`."""
    return _URL_IN_TEXT.sub(lambda match: safe(match[0]), text) if "://" in text else text


# Values


_QUEUES_EXAMPLE: Final = "write for example default:10,mailers:5"
_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def _queues_from_text(text: str) -> dict[str, int]:
    queues: dict[str, int] = {}
    if not text.strip():
        raise InvalidOption(f"no queue is named; {_QUEUES_EXAMPLE}")
    for part in (part.strip() for part in text.split(",")):
        name, colon, limit = part.partition(":")
        if not part:
            raise InvalidOption(f"there is nothing between two commas of {text!r}; {_QUEUES_EXAMPLE}")
        if not colon:
            named = re.split(r"[\s=;]", part)[0] or "default"
            raise InvalidOption(f"{part!r} is not a queue and its limit; write {named}:10, several with commas between")
        name = _queue_name(name.strip())
        if name in queues:
            raise InvalidOption(f"the queue {name!r} is named twice")
        queues[name] = _queue_limit(name, limit.strip())
    return queues


def _queue_name(name: str) -> str:
    if not name.strip():
        raise InvalidOption(f"a queue has no name; {_QUEUES_EXAMPLE}")
    if len(name) > 127 or "\0" in name:
        raise InvalidOption(
            f"the queue {name[:20]!r}... has a name of {len(name)} characters; at most 127 are possible"
        )
    return name


def _queue_limit(name: str, limit: object) -> int:
    if isinstance(limit, str) and re.fullmatch(r"\d{1,9}", limit):
        limit = int(limit)
    if isinstance(limit, Mapping):
        options = cast("Mapping[str, object]", limit)
        for key in options:
            if key != "limit":
                raise InvalidOption(f"the queue {name!r} has an unknown option {key!r}{nearest(key, ['limit'])}")
        limit = options.get("limit", 10)
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise InvalidOption(f"the queue {name!r} has the limit {limit!r}, which is not a whole number; write {name}:10")
    if not 1 <= limit <= 100_000:
        raise InvalidOption(f"the queue {name!r} has the limit {limit}; it runs 1 to 100000 jobs at once")
    return limit


def _url(value: object) -> str:
    text = _text(value)
    if "://" not in text:
        raise InvalidOption(f"{safe(text)!r} is not a URL; write for example postgresql://user:password@host:5432/name")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidOption(f"{value!r} is not a text")
    return value.strip()


def _schema(value: object) -> str:
    text = _text(value)
    # The longest channel is <schema>.oban_cronitor, and PostgreSQL has 63 bytes for a channel.
    if len(text.encode()) > 49:
        raise InvalidOption(f"{text!r} is longer than the 49 bytes which leave room for the names of channels")
    return text


def _names(value: object) -> tuple[str, ...]:
    given: object = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidOption(f"{value!r} names no modules; write for example myapp.jobs")
    names: list[str] = []
    for part in (part for item in cast("Sequence[object]", given) for part in _text(item).split(",")):
        name = part.strip()
        if not all(piece.isidentifier() for piece in name.split(".")):
            guess = name.removesuffix(".py").strip("./").replace("/", ".")
            hint = guess if all(piece.isidentifier() for piece in guess.split(".")) else "myapp.jobs"
            raise InvalidOption(f"{name!r} is not the name of a module; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _attributes(value: object) -> tuple[str, ...]:
    given: object = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidOption(f"{value!r} names no functions; write for example myapp.tracing:trace")
    names: list[str] = []
    for name in (part.strip() for item in cast("Sequence[object]", given) for part in _text(item).split(",")):
        module, colon, attribute = name.partition(":")
        if not colon or not all(piece.isidentifier() for path in (module, attribute) for piece in path.split(".")):
            before, _, last = name.replace(":", ".").rpartition(".")
            guess = f"{before}:{last}"
            hint = guess if all(piece.isidentifier() for piece in name.split(".")) and before else "myapp.tracing:trace"
            raise InvalidOption(f"{name!r} is not a module and a name in it; write for example {hint}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _port(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,5}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        # Kubernetes puts an address into OBAN_HEALTH_PORT where a service is named oban-health.
        service = "; is a Kubernetes service named so?" if isinstance(value, str) and "://" in value else ""
        raise InvalidOption(f"{value!r} is not the number of a port, such as 8080{service}")
    return value


def _crontab(value: object) -> tuple[CronEntry, ...]:
    """Read the tables of a file; what is wrong is said with the number of the entry, counted from 1."""
    tables = cast("list[object]", value) if isinstance(value, list) else [value]
    found: list[CronEntry] = []
    for number, each in enumerate(tables, 1):
        try:
            table: Mapping[str, object] = cast("Any", each)
            if isinstance(each, Mapping):
                if not isinstance(table.get("worker"), str):
                    said = f"{table['worker']!r} is no worker" if "worker" in table else "no worker is named"
                    raise InvalidOption(f'{said}; write for example worker = "myapp.jobs.Report"')
            elif not isinstance(each, CronEntry):
                raise InvalidOption(
                    f'{each!r:.80} is no table; write [[cron]] and below it expression = "0 9 * * MON-FRI" '
                    'and worker = "myapp.jobs.Report"'
                )
            found += entries(table)
        except InvalidOption as error:
            raise InvalidOption(f"entry {number}: {error}") from None
    return tuple(found)


def _positive(value: object) -> float:
    period = seconds(cast("Any", value))
    if period <= 0:
        raise InvalidOption("0 seconds is no interval; write for example 1")
    return period


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _YES or word in _NO:
        return word in _YES
    raise InvalidOption(f"{value!r} is neither true nor false")


def _folder(value: object) -> Path | None:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _YES | _NO):
        return Path(EMBEDDED_FOLDER) if _flag(value) else None
    return value if isinstance(value, Path) else Path(_text(value)).expanduser()


def _choice(choices: Sequence[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value).lower()
        if text not in choices:
            raise InvalidOption(f"{value!r} is not one of {', '.join(choices)}{nearest(text, choices)}")
        return text

    return read


_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


def _shown(value: object) -> str:
    match value:
        case None | () | False:
            return "-"
        case str() if "://" in value:
            return safe(value)
        case tuple():
            return ",".join(str(each) for each in cast("tuple[object, ...]", value))
        case Mapping():
            return ",".join(f"{name}:{limit}" for name, limit in cast("Mapping[str, int]", value).items())
        case float():
            return f"{value:g}"
        case True:
            return "yes"
        case _:
            return str(value)


def _safe_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=***" if equals and "pass" in unquote_plus(name).lower() else parameter


# Sources

_READ: Final[Mapping[str, Callable[[object], object]]] = {
    "database_url": _url,
    "listen_url": _url,
    "pooler": _flag,
    "embedded": _folder,
    "queues": parse_queues,
    "imports": _names,
    "allow": _names,
    "crontab": _crontab,
    "schema": _schema,
    "name": _text,
    "node": _text,
    "grace": lambda value: seconds(cast("Any", value)),
    "heartbeat_every": _positive,
    "dead_after": _positive,
    "abandoned_after": _positive,
    "metrics": _flag,
    "prune": read_prune,
    "middleware": _attributes,
    "health_port": _port,
    "health_host": _text,
    "blocked_after": _positive,
    "poll_every": _positive,
    "stage_every": _positive,
    "until_idle": _flag,
    "dry_run": _flag,
    "log_level": _choice(LOG_LEVELS),
    "log_format": _choice(LOG_FORMATS),
}
_SYNONYMS: Final = {"dsn": "database_url", "prefix": "schema", "import": "imports", "cron": "crontab"}
_ONLY_FLAGS: Final = frozenset({"until_idle", "dry_run"})
_KEYS: Final = (_READ.keys() | _SYNONYMS.keys()) - _ONLY_FLAGS - {"imports"}
_VARIABLES: Final = {f"OBAN_{key.upper()}": key for key in _KEYS - {"crontab", "cron"}}

_Source = dict[str, tuple[Any, str]]


def _read(given: Mapping[str, object], origin: Callable[[str], str]) -> _Source:
    """Check what one source gives; synonyms may repeat each other but not disagree."""
    source: _Source = {}
    for key, raw in given.items():
        name, where = _SYNONYMS.get(key, key), origin(key)
        try:
            value = _READ[name](raw)
        except InvalidOption as error:
            raise InvalidOption(f"{where}: {error}") from None
        if name in source and source[name][0] != value:
            raise InvalidOption(f"{source[name][1]} and {where} mean the same and disagree; give only one of them")
        source[name] = (value, where)
    return source


def _from_flags(flags: Mapping[str, object]) -> _Source:
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    for key in given:
        if key not in _READ and key not in _SYNONYMS:
            raise InvalidOption(f"unknown setting {key!r}{nearest(key, [*_READ, *_SYNONYMS])}")
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
