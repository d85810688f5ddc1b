"""What a file, the environment and the flags say; what is refused is refused with the place where it stood.

`OBAN_QUEUES: ...`, `--queues: ...`, `oban.toml: queues: ...`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from oban_sa.errors import InvalidOption, nearest
from oban_sa.settings.option import Option, flag, variable
from oban_sa.settings.parsers import url

Source: TypeAlias = dict[str, tuple[Any, str]]
"""By the name of the setting its value and where that stood."""

CONFIG: Final = "OBAN_CONFIG"


def from_flags(options: Iterable[Option], flags: Mapping[str, object]) -> Source:
    """Read flags, given by the words or the names of their settings; those that are None or () were not given."""
    known = {word: each for each in options if each.stands_in("flag") for word in (each.name, *each.words)}
    given = {word: value for word, value in flags.items() if value is not None and value != ()}
    for word in given:
        if word not in known:
            raise InvalidOption(f"unknown setting {word!r}{nearest(word, known)}")
    return _read(known, given, lambda word: flag(word if word in known[word].words else known[word].key))


def from_environment(options: Iterable[Option], environ: Mapping[str, str]) -> Source:
    """Read variables; one that is unset or empty says nothing."""
    known = {variable(word): each for each in options if each.stands_in("variable") for word in each.words}
    for name in environ:
        # Variables of others may start with OBAN_ too (Kubernetes makes OBAN_PORT for a service named oban), so only
        # what can hardly be anything but a misspelling is refused.
        if name.startswith("OBAN_") and name not in known and name != CONFIG:
            words = [each.removeprefix("OBAN_") for each in (*known, CONFIG)]
            if near := difflib.get_close_matches(name.removeprefix("OBAN_"), words, n=1, cutoff=0.85):
                raise InvalidOption(f"{name}: there is no such variable; did you mean OBAN_{near[0]}?")
    return _read(known, {name: environ[name] for name in known if environ.get(name, "").strip()}, str)


def from_file(options: Iterable[Option], file: str | Path | None, environ: Mapping[str, str]) -> Source:
    """Read the file that is named, or the one in the current folder; its keys may be written with `-` for `_`."""
    table, where = _table(file, environ)
    known = {word: each for each in options if each.stands_in("file") for word in (each.name, *each.words)}
    only_flags = {each.key for each in options if each.only == "flag"}
    given: dict[str, object] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key in only_flags:
            raise InvalidOption(f"{where}: {written} is no setting; give it as the flag {flag(key)}")
        if key not in known:
            raise InvalidOption(f"{where}: unknown setting {written!r}{nearest(key, known)}")
        given[key] = value
    return _read(known, given, lambda key: f"{where}: {key}")


def _read(known: Mapping[str, Option], given: Mapping[str, object], origin: Callable[[str], str]) -> Source:
    """Check what one source gives; synonyms may repeat each other but not disagree."""
    source: Source = {}
    for word, raw in given.items():
        option, where = known[word], origin(word)
        try:
            value = option.kind.read(raw)
        except InvalidOption as error:
            if isinstance(raw, str) and "://" in raw and "@" in raw and option.kind.read is not url:
                raise InvalidOption(f"{where}: this is a URL, which the setting does not take") from None
            raise InvalidOption(f"{where}: {error}") from None
        if option.name in source and source[option.name][0] != value:
            other = source[option.name][1]
            raise InvalidOption(f"{other} and {where} mean the same and disagree; give only one of them")
        source[option.name] = (value, where)
    return source


def _table(file: str | Path | None, environ: Mapping[str, str]) -> tuple[Mapping[str, object], str]:
    """Return the table of settings of the file to read, and how messages call that file."""
    named = file or environ.get(CONFIG, "").strip()
    if named:
        path, by = Path(named).expanduser(), "--config" if file else CONFIG
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
    import tomllib  # most runners are started without a file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}") from None


def _tool(content: Mapping[str, Any]) -> Mapping[str, object] | None:
    table = content.get("tool", {}).get("oban")
    return cast("Mapping[str, object]", table) if isinstance(table, Mapping) else None
