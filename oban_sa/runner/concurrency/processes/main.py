"""What runs in a process that works for a runner: one call after another, in its main thread."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from types import FrameType
from typing import Any

from oban_sa import hooks
from oban_sa.describe import exceptions
from oban_sa.describe.job_facts import job_facts
from oban_sa.errors import AttemptCancelled, AttemptError, JobNotFound
from oban_sa.models import Job
from oban_sa.runner.concurrency import forks, frames
from oban_sa.runner.concurrency.processes import protocol
from oban_sa.runner.concurrency.processes.attempt import ProcessAttempt
from oban_sa.runner.concurrency.processes.protocol import (
    HEAD,
    Ask,
    Begun,
    Cancel,
    Failure,
    Interrupt,
    Leave,
    Look,
    Plan,
    Ready,
    Refused,
    Seen,
    Told,
)
from oban_sa.runner.concurrency.tracebacks import of_the_worker
from oban_sa.telemetry.log_guard import Voice
from oban_sa.workers.current import attempting, current_job, running
from oban_sa.workers.definition import Definition
from oban_sa.workers.registry import found_by_name


def main(channel: socket.socket, plan: Plan) -> None:
    """Work for the runner at the other end of `channel` until it says that there is no more to do, or is gone."""
    _keep_from_programs()
    _Inside(channel, plan).work()


class _Inside:
    def __init__(self, channel: socket.socket, plan: Plan) -> None:
        self._channel = channel
        self._plan = plan
        self._pid = os.getpid()
        self._asks: SimpleQueue[Ask | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._job: Job | None = None
        self._attempt: ProcessAttempt | None = None
        self._number = 0
        self._asked_to_stop = 0
        self._interrupt: Interrupt | None = None
        self._interruptible = False
        self._interrupted = 0
        self._sending = 0

    def work(self) -> None:
        # Ctrl-C and some supervisors' SIGTERM reach every process; the runner decides what they mean for running jobs.
        # Not SIG_IGN, which programs that a job starts would inherit.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
            # What the code forks is to end where it says `Process.terminate()`, as it would in any program.
            forks.take(number, self._signalled)
        for what in (self._listen, self._end_with_parent):
            threading.Thread(target=what, name=f"oban_sa {what.__name__}", daemon=True).start()
        self._log = _Through(self._say)
        voice = Voice(self._log, quiet=True)  # the runner imports the same modules, and has told of it
        _log_through(self._log, self._plan)
        for module in self._plan.imports:
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:
                logging.getLogger("oban_sa.runner").debug("importing %s failed", module, exc_info=True)
                self._send(Refused(f"could not import {module!r}: {exceptions.describe(error)}"))
                return
            finally:
                voice.raise_again()
        # Again: what was imported may have set up logging, as it has in the runner.
        _log_through(self._log, self._plan)
        self._send(Ready())
        while (ask := self._asks.get()) is not None:
            self._send(self._answer(ask))
            voice.raise_again()

    def _answer(self, ask: Ask) -> protocol.Answer | Failure:
        try:
            known = ask.module in sys.modules
            definition = found_by_name(ask.name, ask.module, self._plan.imports)
            if not known:
                _log_through(self._log, self._plan)
            job = Job.from_row(ask.row)
            with self._lock:
                self._job, self._number = job, ask.number
                if self._asked_to_stop == ask.number:
                    job.request_cancel()
            attempt = self._attempt = ProcessAttempt(ask, job, self._send)
            self._send(Begun(ask.number))
            # In a context of its own, as a task or a thread has it: what one job sets there is not for the next.
            answer = contextvars.copy_context().run(self._called, definition, job, attempt)
            attempt.refuse_unawaited()
        except BaseException as error:
            return protocol.failed(ask.number, error, of_the_worker(exceptions.traceback_of(error)))
        finally:
            if self._attempt is not None:
                self._attempt.end()
                self._attempt = None
            with self._lock:
                self._job = None
        return protocol.answered(ask.number, answer, interrupted=self._interrupted == ask.number)

    def _called(self, definition: Definition, job: Job, attempt: ProcessAttempt) -> object:
        answered, answer = False, None
        try:
            try:
                self._interruptible = True
                self._raise_if_interrupted()  # it may have been while the worker was imported
                with running(job), attempting(attempt), hooks.entered(job):
                    answer = forks.called(definition.call, job)
                answered = True
            finally:
                self._interruptible = False
        except BaseException:
            self._interruptible = False
            if not answered:
                raise
            self._interrupted = 0  # the interruption came just as the code ended, and interrupts nothing
        return answer

    # Interruptions

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._raise_if_interrupted()

    def _raise_if_interrupted(self) -> None:
        """Raise what the runner wants raised in the code; in the main thread, where the code runs.

        From a signal's handler, since that also ends a wait inside C such as `time.sleep`. Never amid a message, of
        which the runner would get only one half.
        """
        interrupt = self._interrupt
        if interrupt is None or not self._interruptible or self._sending or interrupt.number != self._number:
            return
        self._interrupt = None
        self._interrupted = interrupt.number
        raise interrupt.error

    def _listen(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = self._received()
                match message:
                    case Ask():
                        self._asks.put(message)
                    case Cancel() | Interrupt():
                        if isinstance(message, Cancel) or isinstance(message.error, AttemptCancelled):
                            self._ask_to_stop(message.number)
                        if isinstance(message, Interrupt):
                            self._interrupt = message
                            _wake_main_thread()
                    case Told():
                        if (attempt := self._attempt) is not None:
                            attempt.told(message)
                    case Look():
                        self._send(Seen(message.number, frames.of_thread(threading.main_thread().ident or 0)))
                    case Leave():
                        self._asks.put(None)
                        return
                    case _:
                        break
        os._exit(1)  # the runner is gone, and its jobs are given to others

    def _ask_to_stop(self, number: int) -> None:
        with self._lock:
            self._asked_to_stop = number
            if self._job is not None and self._number == number:
                self._job.request_cancel()

    def _end_with_parent(self) -> None:
        # The channel alone doesn't tell: where the runner's process was forked, the copy holds the other end too.
        while os.getppid() == self._plan.parent:
            time.sleep(0.5)
        os._exit(1)

    # The channel

    def _received(self) -> Any:
        (length,) = HEAD.unpack(self._read(HEAD.size))
        return pickle.loads(self._read(length))  # noqa: S301 - from the process that started this one

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._channel.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _send(self, message: object) -> None:
        if os.getpid() != self._pid:  # a fork made by a job, which came out of the job's code
            os._exit(1)
        in_main = threading.current_thread() is threading.main_thread()
        self._sending += in_main
        try:
            data = protocol.framed(message)
            with self._writing:
                self._channel.sendall(data)
        except OSError:
            os._exit(1)
        finally:
            self._sending -= in_main
        if in_main:
            self._raise_if_interrupted()

    def _say(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._pid:
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        # What is said may be put together by code of others; an interruption amid that would be taken for its failure.
        in_main = threading.current_thread() is threading.main_thread()
        self._sending += in_main
        try:
            message = protocol.said(record)
        finally:
            self._sending -= in_main
        self._send(message)


class _Through(logging.Handler):
    """Hands records to the runner's own logging, with the job that they are about."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(JobNotFound):
            for key, value in job_facts(current_job()).items():
                record.__dict__.setdefault(key, value)
        try:
            self._say(record)
        except AttemptError:  # an interruption that waited for the message to be over
            raise
        except Exception:
            self.handleError(record)


def _keep_from_programs() -> None:
    """Let no program that a job starts inherit what this process was given when it was spawned.

    The runner unpickles what comes out of the channel, and waits for the end of the pipes. To be inherited is how they
    came here, and the runner does not say which they are: besides the channel there are two pipes of multiprocessing's.
    """
    with contextlib.suppress(FileNotFoundError):  # Windows
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):
                if int(name) > 2:
                    os.set_inheritable(int(name), False)


def _log_through(through: _Through, plan: Plan) -> None:
    """Give every record to the runner, whose loggers have the handlers that were set up here by imports, too.

    What is logged here would else be handled twice. Handlers that code adds while it runs are its own, and stay.
    """
    for known in list(logging.root.manager.loggerDict.values()):
        if isinstance(known, logging.Logger):
            known.handlers.clear()
            known.propagate = True  # the runner's logger of that name says how far it goes
    logging.root.handlers[:] = [through]
    logging.disable(plan.disabled)
    for name, level in plan.levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(plan.warnings)


def _wake_main_thread() -> None:
    ident = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, signal.SIGTERM)
    else:  # Windows
        signal.raise_signal(signal.SIGTERM)
