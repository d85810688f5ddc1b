"""One thing that a report of health tells of."""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """What was found of one thing: whether it is well, and a detail that JSON can hold."""

    well: bool
    detail: object = None
