"""One user and a password before the dashboard, where it is served by itself."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_ASK: Final = {"WWW-Authenticate": 'Basic realm="oban_sa dashboard", charset="UTF-8"'}


class Login:
    """Asks for a name and a password by HTTP's Basic authentication; nothing is served without."""

    def __init__(self, app: ASGIApp, *, user: str, password: str) -> None:
        self._app = app
        self._expected = _digest(f"{user}:{password}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the user, and ask all others who they are."""
        if scope["type"] == "http" and not self._is_user(Headers(scope=scope).get("authorization", "")):
            answer = PlainTextResponse("Name and password, please.\n", status_code=401, headers=_ASK)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_user(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        # Of equal length and in constant time, so that the answer's delay tells nothing.
        return hmac.compare_digest(_digest(given), self._expected)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
