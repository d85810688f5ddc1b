"""URLs and texts with their passwords hidden.

A mistyped URL may be malformed, and then the ends of its password can't be found. So only parts that can't be one are
shown: the text before the first ":" and after the last "@", and parameters that are known to be harmless.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

HIDDEN: Final = "***"

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_USER: Final = re.compile(r"[\w.%+~-]*")
_AFTER_USER: Final = re.compile(r"[\w.,%+~:\[\]-]*(?:/[\w.%+~-]*)?")
_HOST: Final = r"(?:[\w.%+~-]*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_WITHOUT_USER: Final = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[\w.%+~-]*)?")
_NUMBERS: Final = re.compile(r"\d{1,4}|true|false|on|off", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[\w./,:%+~\[\]-]*")
_PAIR: Final = r"(\w+)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s']*)"
_PAIRS: Final = re.compile(rf"\s*{_PAIR}(?:\s+{_PAIR})*\s*")
_PATH: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KNOWN: Final = frozenset(
    {
        *("host", "hostaddr", "port", "user", "dbname", "database", "application_name", "target_session_attrs"),
        *("sslmode", "ssl", "sslrootcert", "sslcert", "channel_binding", "gssencmode", "connect_timeout", "options"),
    }
)
_START: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def safe(url: str) -> str:
    """Return a text that was given as a URL, with `***` for all that could be a password."""
    if found := _URL.fullmatch(url):
        return f"{found[1]}://{_safe_address(found[2])}"
    if _PAIRS.fullmatch(url):
        return re.sub(_PAIR, lambda pair: pair[1] + pair[2] + _safe_value(pair[1], pair[3]), url)
    return url if _PATH.fullmatch(url) else HIDDEN


def redacted(text: str) -> str:
    """Return the text with the passwords of all URLs in it replaced by `***`."""
    if "://" not in text:
        return text
    parts: list[str] = []
    position = 0
    while found := _START.search(text, position):
        end = _end(text, found.end())
        parts += (text[position : found.start()], safe(text[found.start() : end]))
        position = end
    return "".join(parts) + text[position:]


def unambiguous(url: str) -> bool:
    """Return whether the URL can be read in one way only, so that no part of its password passes for another part."""
    found = _URL.fullmatch(url)
    if found is None:
        return False
    before, at, after = found[2].partition("@")
    shown = after if at else before
    pattern = _AFTER_USER if at else _WITHOUT_USER
    return "@" not in shown and pattern.fullmatch(shown.partition("?")[0]) is not None


def _end(text: str, start: int) -> int:
    """Return where a URL ends: at a blank or a quote, unless these belong to its password."""
    run = re.split(r"\s", text[start:], maxsplit=1)[0]
    if "@" not in run and not _WITHOUT_USER.fullmatch(re.split(r"[\"'<>?]", run, maxsplit=1)[0].rstrip(".,;:)]}")):
        run = text[start:].partition("\n")[0]  # "postgresql://user:my" may go on: " secret@host/name"
    end = start + run.rfind("@") + 1
    return end + len(re.split(r"[\s\"'<>]", text[end:], maxsplit=1)[0].rstrip(".,;:)"))


def _safe_address(rest: str) -> str:
    head, at, tail = rest.rpartition("@")
    host, question, query = tail.partition("?")
    if not at:
        shown = _WITHOUT_USER.fullmatch(host)
    else:
        # An "@" in a parameter would show the end of that parameter as a host.
        shown = None if re.search(r"[?&][^=@]*=", head) else _AFTER_USER.fullmatch(host)
    if not shown:
        return HIDDEN
    user, colon, _ = head.partition(":")
    if not _USER.fullmatch(user):
        user, colon = HIDDEN, ""
    query = "&".join(_safe_parameter(parameter) for parameter in query.split("&")) if query else ""
    return f"{user}{colon and ':' + HIDDEN}{at}{host}{question}{query}"


def _safe_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals or not re.fullmatch(r"[\w%]+", name):
        return HIDDEN
    return f"{name}={_safe_value(unquote_plus(name), value)}"


def _safe_value(name: str, value: str) -> str:
    if "pass" in name.lower():
        return HIDDEN
    return value if (_PLAIN if name.lower() in _KNOWN else _NUMBERS).fullmatch(value) else HIDDEN
