"""A form that a browser sent, read within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

LARGEST: Final = 1_000_000
"""Bytes of a form."""
MOST: Final = 3_000
"""Fields of a form."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, in their order."""

    fields: tuple[tuple[str, str], ...]

    def one(self, name: str) -> str:
        """Return the value of a field, "" where it is missing."""
        return next((value for key, value in self.fields if key == name), "")

    def several(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self.fields if key == name]

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields."""
        return frozenset(key for key, _ in self.fields)


async def read_form(request: Request) -> Form:
    """Read a form; raises `HTTPException` for one that is too large or of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Forms are sent as application/x-www-form-urlencoded.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise HTTPException(413, f"A form may have {LARGEST:,} bytes.")
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST)
    except ValueError:
        raise HTTPException(400, f"A form may have {MOST:,} fields.") from None
    return Form(tuple(pairs))
