"""The files that pages refer to: a fixed table of names, each served with the hash of what is in it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).parent

TYPES: Final = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "hx-sse.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "metrics.js": "text/javascript; charset=utf-8",
    "uplot.min.css": "text/css; charset=utf-8",
    "uplot.min.js": "text/javascript; charset=utf-8",
}
"""The names that are served, and what they are."""


@cache
def contents(name: str) -> bytes:
    """Return what is in a file of the table."""
    return (FOLDER / name).read_bytes()


@cache
def fingerprint(name: str) -> str:
    """Return a short hash of a file, so that browsers may keep it for ever."""
    return hashlib.sha256(contents(name)).hexdigest()[:12]


async def serve(request: Request) -> Response:
    """Answer with a file of the table."""
    name: str = request.path_params["name"]
    kind = TYPES.get(name)
    if kind is None:
        raise HTTPException(404)
    fresh = request.path_params["hash"] == fingerprint(name)
    kept = "public, max-age=31536000, immutable" if fresh else "no-cache"
    return Response(contents(name), media_type=kind, headers={"Cache-Control": kept})
