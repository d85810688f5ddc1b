"""Who called: warnings name the line of the program, and not one of ours."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Final

_PASSED: Final = frozenset({"oban_sa", "sqlalchemy", "contextlib", "asyncio", "greenlet", "pydantic", "dataclasses"})


def warn(message: str, category: type[Warning]) -> None:
    """Warn of what the program says, at the line that says it: the nearest that is neither ours nor SQLAlchemy's."""
    level, frame = 2, _caller(sys._getframe(0))
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, frame = level + 1, _caller(frame)
    warnings.warn(message, category, stacklevel=level if frame is not None else 1)


def _caller(frame: FrameType) -> FrameType | None:
    back = frame.f_back
    while back is not None and _is_importing(back):  # which the levels of a warning don't count
        back = back.f_back
    return back


def _is_importing(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return "importlib" in name and "_bootstrap" in name
