"""What users may attach where jobs are made and written, and where a process works on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from oban_sa.describe import callables

H = TypeVar("H", bound="Callable[..., object]")

Hook: TypeAlias = Callable[[Any], object]
"""A function of one `Job`; what it returns is ignored."""

Meta: TypeAlias = Callable[[], Mapping[str, Any]]
"""A function that returns what the meta of jobs is to hold besides."""

Around: TypeAlias = Callable[[], AbstractContextManager[object]]
"""A function that returns a context manager."""

AroundStatement: TypeAlias = "Callable[[Statement], AbstractContextManager[Mapping[str, Any]]]"
"""A function of a `Statement` that returns a context manager, whose value becomes part of the meta of its jobs."""

Entered: TypeAlias = Callable[[Any], AbstractContextManager[object]]
"""A function of one `Job` that returns a context manager."""


def after_new(hook: Hook) -> Callable[[], None]:
    """Call `hook` with every job that the constructor makes, and return a function that removes it again.

    Jobs loaded from rows are not shown to it. Hooks run in the order they were added, in the thread that makes the
    job, whose caller gets what one raises. A hook added twice is called twice. Removing twice is harmless.
    """
    return AFTER_NEW.add(hook)


def before_insert(hook: Hook) -> Callable[[], None]:
    """Call `hook` with every job that is about to be inserted, and return a function that removes it again.

    It may change what the row will hold: `job.meta["traceparent"] = ...`; args and meta are this job's alone by then.
    It is called once per job: inside the flush of a session, where nothing may be added to that session or queried with
    it, for jobs that `Oban.enqueue` and `Oban.enqueue_many` write, and for those of the crontab on the node that leads,
    whose state and schedule are those of the tick, also where it sets others. Jobs of `enqueue_select` are not shown to
    it: they are made inside the database, where Python code sees none of them. What it raises lets the flush fail.
    Order, adding twice and removing are as with `after_new`.
    """
    return BEFORE_INSERT.add(hook)


def around_insert(hook: Around) -> Callable[[], None]:
    """Call `hook` where jobs are about to be written together, and return a function that removes it again.

    The jobs of a flush, of a statement, of a COPY or of a tick of the crontab are shown to hooks of `before_insert`,
    and written, inside of the context manager that it returns. Jobs that SQLAlchemy's mapper inserts are written after
    it, and those whose unique keys are claimed before the flush are shown to hooks before it.
    """
    return AROUND_INSERT.add(hook)


def in_statement(hook: Meta) -> Callable[[], None]:
    """Call `hook` for each statement that makes jobs inside the database, and return a function that removes it again.

    What it returns, JSON, becomes part of the meta of all those jobs: `enqueue_select` makes jobs that no Python code
    sees. What the statement's own meta has goes first.
    """
    return IN_STATEMENT.add(hook)


def around_statement(hook: AroundStatement) -> Callable[[], None]:
    """Call `hook` where a statement makes jobs inside the database, and return a function that removes it again.

    The statement is made and run inside of the context manager that it returns, and what that gives, JSON, becomes part
    of the meta of all its jobs. At the end `made` of the `Statement` says how many these are.
    """
    return AROUND_STATEMENT.add(hook)


def in_process(hook: Entered) -> Callable[[], None]:
    """Call `hook` in a process, with each job whose code begins there, and return a function that removes it again.

    The code runs inside of the context manager that it returns. It has to be added in that process, by a module that
    the process imports.
    """
    return IN_PROCESS.add(hook)


@dataclass(slots=True)
class Statement:
    """A statement that makes jobs inside the database.

    `queue` is None where each row chooses its own. `made` is how many jobs it made, by queue, once it has run.
    """

    worker: str
    queue: str | None
    made: Mapping[str, int] = field(default_factory=dict[str, int])


def said_for_all(statement: Statement, stack: ExitStack) -> dict[str, Any]:
    """Return what all hooks of `IN_STATEMENT` and `AROUND_STATEMENT` add to the meta of jobs.

    The context managers of the second are entered, and left with the stack.
    """
    found: dict[str, Any] = {}
    for _, hook in IN_STATEMENT.hooks:
        found.update(hook())
    for _, around in AROUND_STATEMENT.hooks:
        found.update(stack.enter_context(around(statement)))
    return found


def together() -> AbstractContextManager[object]:
    """Return a context manager that is all those of `AROUND_INSERT` in one."""
    if not AROUND_INSERT.hooks:
        return _NOTHING
    stack = ExitStack()
    for _, hook in AROUND_INSERT.hooks:
        stack.enter_context(hook())
    return stack


def entered(job: Any) -> AbstractContextManager[object]:
    """Return a context manager that is all those of `IN_PROCESS` in one."""
    stack = ExitStack()
    for _, hook in IN_PROCESS.hooks:
        stack.enter_context(hook(job))
    return stack


def made(job: Any) -> None:
    """Show a job that was just made to every hook of `AFTER_NEW`."""
    for _, hook in AFTER_NEW.hooks:
        hook(job)


def writing(job: Any) -> None:
    """Show a job that is about to be written to every hook of `BEFORE_INSERT`, with args and meta of its own."""
    loaded = cast("dict[str, Any]", vars(job))
    for column in ("args", "meta"):
        if isinstance(loaded.get(column), dict):
            loaded[column] = {**loaded[column]}
    for _, hook in BEFORE_INSERT.hooks:
        hook(job)


class Hooks(Generic[H]):
    """What is attached to one moment; callers look first whether `hooks` is empty, as it nearly always is.

    `hooks` is replaced as a whole under the lock and never changed in place, so that it is read without one.
    """

    __slots__ = ("hooks",)

    def __init__(self) -> None:
        self.hooks: tuple[tuple[object, H], ...] = ()

    def add(self, hook: H) -> Callable[[], None]:
        if not callable(hook):
            raise TypeError(f"a hook is a function of one job, not {hook!r}")
        if callables.is_async(hook) or callables.yields(hook):
            # What it gives would not be awaited, so it would never run.
            how = "yields" if callables.yields(hook) else "is async"
            raise TypeError(f"a hook is called where the job is made, and {callables.named(hook)} {how}; write `def`")
        registration = (object(), hook)
        with _lock:
            self.hooks = (*self.hooks, registration)

        def remove() -> None:
            with _lock:
                self.hooks = tuple(kept for kept in self.hooks if kept is not registration)

        return remove


class Flag:
    """Whether something is on."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


JOBS_ENQUEUED: Final = Flag()
"""Whether telemetry has handlers of jobs that are enqueued: set by it, and read where it may never be imported."""

_NOTHING: Final = nullcontext()
_lock = threading.Lock()
AFTER_NEW: Final[Hooks[Hook]] = Hooks()
BEFORE_INSERT: Final[Hooks[Hook]] = Hooks()
AROUND_INSERT: Final[Hooks[Around]] = Hooks()
IN_STATEMENT: Final[Hooks[Meta]] = Hooks()
AROUND_STATEMENT: Final[Hooks[AroundStatement]] = Hooks()
IN_PROCESS: Final[Hooks[Entered]] = Hooks()
