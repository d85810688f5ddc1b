"""Warnings at the line of the program that called, and not at a line of ours."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Final

_PASSED: Final = frozenset({"oban_sa", "sqlalchemy", "contextlib", "asyncio", "greenlet", "pydantic", "dataclasses"})


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the nearest line of the stack that is in none of the packages in `_PASSED`."""
    level, found = 2, _caller(frame(0))
    while found is not None and found.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, found = level + 1, _caller(found)
    warnings.warn(message, category, stacklevel=level if found is not None else 1)


def frame(depth: int = 1) -> FrameType:
    """Return the frame of the function that calls `frame`, or of one `depth` calls further out."""
    # Documented, and named so only because not every Python has frames.
    return sys._getframe(depth + 1)  # pyright: ignore[reportPrivateUsage]


def _caller(frame: FrameType) -> FrameType | None:
    back = frame.f_back
    # `stacklevel` doesn't count the frames of imports.
    while back is not None and "importlib" in (name := back.f_code.co_filename) and "_bootstrap" in name:
        back = back.f_back
    return back
