"""What programs give to `sentry_sdk.init`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, Literal, TypeAlias, get_args

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations.logging import ignore_logger

from oban_sa import hooks, telemetry
from oban_sa.describe.choices import choice
from oban_sa.jobs.states import JobState
from oban_sa.sentry import context
from oban_sa.sentry.attempts import Attempts
from oban_sa.sentry.publish import publish
from oban_sa.workers import middleware

Capture: TypeAlias = Literal["discarded", "every", "never"]
"""Which failures are errors in Sentry: those after which a job is discarded, every one, or none."""

_CAPTURES: Final[tuple[Capture, ...]] = get_args(Capture)


class ObanIntegration(Integration):
    """Makes a transaction of each attempt, and an error in Sentry of each job that is discarded.

        sentry_sdk.init(dsn=..., integrations=[ObanIntegration(capture="discarded", publish_spans=True)])

    Call `init` before runners are made: those there are go on without. With `capture` "every" each attempt that fails
    is an error in Sentry, with "never" none is. With `publish_spans` each job that is written within a span has a span
    of its own; without, its attempts still go on with the trace. Raises `InvalidOption` for other values.
    """

    identifier: ClassVar[str] = "oban"  # type: ignore[misc]

    def __init__(self, *, capture: Capture = "discarded", publish_spans: bool = True) -> None:
        self.capture: Capture = choice(capture, _CAPTURES, what="capture")
        self.publish_spans = publish_spans

    def captures(self, state: JobState) -> bool:
        """Whether a failure that leads to this state is an error in Sentry."""
        return self.capture == "every" or (self.capture == "discarded" and state is JobState.DISCARDED)

    @staticmethod
    def setup_once() -> None:
        """Attach it to the process; called by Sentry's SDK, once. Which client listens is asked each time."""
        if _detach:
            return
        attempts = Attempts(_current)
        _detach.extend(
            (
                hooks.before_insert(lambda job: publish(job, _current())),
                hooks.in_statement(lambda: {} if _current() is None else context.current()),
                hooks.in_process(attempts.entered),
                middleware.attach(attempts.around),
                telemetry.attach(attempts.ended, telemetry.JobStop, telemetry.JobException, telemetry.JobStale),
            )
        )
        # Its lines tell of the same failures, and those of the level ERROR would be errors in Sentry once more.
        ignore_logger("oban_sa.job")

    @staticmethod
    def remove() -> None:
        """Detach it from the process, as tests may want; `setup_once` attaches it again."""
        while _detach:
            _detach.pop()()


_detach: Final[list[Callable[[], None]]] = []


def _current() -> ObanIntegration | None:
    return sentry_sdk.get_client().get_integration(ObanIntegration)
