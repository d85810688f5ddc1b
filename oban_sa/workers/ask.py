"""Functions that options of a worker name, and that are asked with one job."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from oban_sa.describe import callables
from oban_sa.errors import InvalidOption
from oban_sa.models import Job


def asked(function: Any, *, what: str, when: str, one: str, instead: str, example: str) -> Callable[[Job], Any]:
    """Accept a function that says for a job what the option `what` would say for all; raises `InvalidOption`.

    `when` it is asked, and that it returns `one` of something, are parts of the sentences that refuse another.
    `instead` says what to write in place of a class.
    """
    name = callables.named(function)
    if inspect.isclass(function):
        raise InvalidOption(f"{what} is the class {name}; {instead}")
    if callables.is_async(function):
        raise InvalidOption(f"{what} is asked {when}, and {name} is async; write `def`, or {example}")
    if callables.yields(function):
        raise InvalidOption(f"{what} is {one}, and {name} yields; return it: {example}")
    if not callables.takes(function, 1):
        raise InvalidOption(f"{what} is asked with one job, which {name} doesn't take; write for example {example}")
    return function  # type: ignore[no-any-return]
