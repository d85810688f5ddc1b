"""What every request passes before a page sees it, and every answer on its way out: hosts, origins and headers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_SAFE: Final = frozenset({"GET", "HEAD"})


class Guard:
    """Refuses requests for other hosts and from other sites, and adds headers to answers."""

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Collection[str] | None, allowed_origins: Collection[str]
    ) -> None:
        """`allowed_hosts` are names without ports, None for any; `allowed_origins` may send forms besides its own."""
        self._app = app
        self._hosts = None if allowed_hosts is None else frozenset(name.lower() for name in allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            # A name of another site that leads to this machine would be of the same origin for its scripts.
            return f"The host {host[:200]!r} is not one of those that this dashboard answers for.\n"
        if scope["method"] in _SAFE:
            return None
        origin = headers.get("origin", "").lower()
        if origin and origin in self._origins:
            return None
        # Browsers send it, and no script can change it; other programs, which no site can lead on, send neither.
        site = headers.get("sec-fetch-site")
        if site is not None:
            return None if site in ("same-origin", "none") else _CROSS
        if origin and (origin == "null" or urlsplit(origin).netloc != host.lower()):
            return _CROSS
        return None


_CROSS: Final = (
    "This form was sent by another site, so nothing was done. Where a proxy changes the Host header, give the address "
    "in the browser as allowed_origins= (or --allowed-origin).\n"
)


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
