"""The code of a worker, whether a class or a function, and where it runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.arguments.entities import Entity
from oban_sa.arguments.load import OnMissing
from oban_sa.describe import callables
from oban_sa.errors import InvalidOption, articled
from oban_sa.models import Job
from oban_sa.schedule.periods import Period
from oban_sa.workers.options import Executor
from oban_sa.workers.parameters import Parameter
from oban_sa.workers.signature import Signature

AttemptSession: TypeAlias = AsyncSession | Session | None
"""The session of an attempt, or None for code that takes none."""

SessionKind: TypeAlias = Literal["async", "sync"]


class Call(Protocol):
    """Runs code for a job: for the loop returns a coroutine, else what the code returns."""

    def __call__(self, job: Job, session: AttemptSession = None, /) -> Any:
        """Run it."""
        ...


class Body(Protocol):
    """What a definition runs."""

    @property
    def what(self) -> str:
        """How messages call it."""
        ...

    @property
    def target(self) -> Any:
        """The class or function itself."""
        ...

    @property
    def executor(self) -> Executor:
        """Where it runs."""
        ...

    @property
    def session_class(self) -> type[AsyncSession | Session] | None:
        """The class of session that it takes."""
        ...

    @property
    def timeout(self) -> Callable[[Job], Period | None] | None:
        """What it says about timeouts itself."""
        ...

    @property
    def backoff(self) -> Callable[[Job], Period | None] | None:
        """What it says about waiting itself."""
        ...

    def check(self, args: Mapping[str, object]) -> None:
        """Raise `InvalidArguments` where a job could not have these args, as far as that can be told yet."""
        ...

    @property
    def call(self) -> Call:
        """Runs it."""
        ...

    def signature(self) -> Signature:
        """Return the names of its args, as far as its parameters or the type of its args say them."""
        ...


@runtime_checkable
class ManyAtOnce(Protocol):
    """A body that is called with the jobs of a chunk."""

    def call_all(self, jobs: Sequence[Job], session: AttemptSession = None) -> object:
        """Run it."""
        ...


def check_function(function: object, *, what: str) -> None:
    """Refuse what can't answer with one value."""
    if callables.yields(function):
        raise InvalidOption(f"{what} yields, but a job has one answer; return it")


def place(function: object, asked: Executor | None, *, what: str) -> Executor:
    """Return where `function` runs: what was asked for, else the loop for `async def` and a thread for `def`.

    A `def` that wraps an `async def` most probably hands its coroutine on, and belongs on the loop too.
    """
    if inspect.iscoroutinefunction(function):
        if asked == "thread":
            raise InvalidOption(f'{what} is async and runs on the loop; write `def`, or leave out executor="thread"')
        return asked or "loop"
    return asked or ("loop" if callables.is_async(function) else "thread")


def check_session(
    parameters: Sequence[Parameter], executor: Executor, *, what: str
) -> type[AsyncSession | Session] | None:
    """Return the class of session that code takes; refuse one that can't be used where the code runs."""
    sessions = [(parameter.name, session) for parameter in parameters if (session := parameter.session) is not None]
    if not sessions:
        return None
    if len(sessions) > 1:
        raise InvalidOption(f"{what} takes {' and '.join(name for name, _ in sessions)}; an attempt has one session")
    name, session = sessions[0]
    if executor == "process":
        raise InvalidOption(f"{what} runs in another process, where no session reaches it; open one there")
    if executor == "loop" and issubclass(session, Session):
        raise InvalidOption(f"{what} runs on the loop, which a Session would block; write {name}: AsyncSession")
    if executor == "thread" and issubclass(session, AsyncSession):
        raise InvalidOption(f"{what} runs in a thread; write {name}: Session, or `async def`")
    return session


def check_crossing(target: type | Callable[..., object], *, what: str) -> None:
    """Refuse code that another process could not import."""
    if "<locals>" in target.__qualname__:
        raise InvalidOption(f'{what} stands inside a function; executor="process" needs it at the top of a module')


def runner_of(function: Callable[..., object], executor: Executor) -> Callable[..., object]:
    """Return `function` so that it answers as its executor needs: a coroutine on the loop, else a value."""
    if executor == "thread":  # in which a coroutine is no answer: see `refuse_unawaited`
        return function
    if executor == "process":

        def in_process(*args: object, **kwargs: object) -> object:
            answer = function(*args, **kwargs)
            return asyncio.run(answer) if inspect.iscoroutine(answer) else answer  # there is no loop yet

        return in_process
    if inspect.iscoroutinefunction(function):
        return function

    async def on_loop(*args: object, **kwargs: object) -> object:
        answer = function(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return on_loop


def check_entities(
    entities: Sequence[Entity], session_class: object, executor: Executor, on_missing: OnMissing, *, what: str
) -> None:
    """Refuse mapped objects that could not be loaded, or not be missing, and an `on_missing` that is about none."""
    if not entities:
        if on_missing != "cancel":
            raise InvalidOption(f"{what} has on_missing={on_missing!r}, but takes no mapped object that could be gone")
        return
    name = entities[0].name
    if executor == "process":
        raise InvalidOption(
            f"{what} takes {articled(name)}, but runs in another process, where no session reaches it; "
            f"take its key there, and load it in a session of your own"
        )
    if session_class is None:
        session = "Session" if executor == "thread" else "AsyncSession"
        raise InvalidOption(
            f"{what} takes {articled(name)}, which is loaded in the attempt's session; "
            f"take that too: session: {session}"
        )
    if on_missing == "none":
        for entity in entities:
            if not entity.nullable:
                raise InvalidOption(
                    f'{what} has on_missing="none", which gives None for a row that is gone; '
                    f"write {entity.name} | None where it takes {articled(entity.name)}"
                )
