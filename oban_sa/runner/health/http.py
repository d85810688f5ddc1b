"""As much of HTTP/1.1 as a probe needs: the head of one request, and one answer (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson

_HEAD: Final = re.compile(
    rb"(?P<method>[A-Z]+) (?P<target>[!-~]+) HTTP/(?P<version>[0-9.]+)\r\n"
    rb"(?P<fields>(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*)\r\n"
)
_HOST: Final = re.compile(rb"^host:", re.IGNORECASE | re.MULTILINE)
JSON: Final = "application/json"
_ORIGIN: Final = re.compile(r"https?://[^/?]*")


class Refused(Exception):
    """A request that is not served: the status of the answer, and what is wrong with the request."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def parse(head: bytes) -> tuple[str, str]:
    """Return the method and the path of a request's head, without the query; raises `Refused`."""
    found = _HEAD.fullmatch(head)
    if found is None:
        raise Refused(400, "this is no HTTP request, whose head is ASCII")
    if found["version"] not in (b"1.0", b"1.1"):
        raise Refused(505, "write HTTP/1.1")
    hosts = len(_HOST.findall(found["fields"]))
    if hosts > 1 or (hosts == 0 and found["version"] == b"1.1"):
        raise Refused(400, "a request names its host, once")
    target = found["target"].decode()
    return found["method"].decode(), _ORIGIN.sub("", target, count=1).partition("?")[0]


def answer(status: int, content: Mapping[str, object], *, with_body: bool = True, allow: str = "") -> bytes:
    """Return an answer whose body is a JSON object, or without the body as to HEAD; `allow` names methods."""
    body = orjson.dumps(content, default=str) + b"\n"
    return respond(status, body, JSON, with_body=with_body, allow=allow)


def respond(status: int, body: bytes, content_type: str, *, with_body: bool = True, allow: str = "") -> bytes:
    """Return an answer with this body, or without it as to HEAD."""
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *([f"Allow: {allow}"] if allow else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + (body if with_body else b"")
