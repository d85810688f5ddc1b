"""Texts that may be shown: addresses without their passwords."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


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


def _safe_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=***" if equals and "pass" in unquote_plus(name).lower() else parameter
