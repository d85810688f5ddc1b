"""`record=True`: what the code of a worker returns is kept with its job."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import cast

from oban_sa.jobs import values
from oban_sa.jobs.answers import Answer, Record
from oban_sa.workers.options import Executor


def recording(function: Callable[..., object], executor: Executor) -> Callable[..., object]:
    """Return a function that answers with `Record` of what `function` returns, unless that is an answer already."""
    if executor == "loop":

        async def on_loop(*args: object, **kwargs: object) -> object:
            return _recorded(await cast("Awaitable[object]", function(*args, **kwargs)))

        return on_loop
    return lambda *args, **kwargs: _recorded(function(*args, **kwargs))


def _recorded(answer: object) -> object:
    if isinstance(answer, Answer) or inspect.iscoroutine(answer):  # which is refused in a moment
        return answer
    return Record(values.to_json(answer, where="the recorded value", typed=values.Typed()))
