"""What a suspension makes of a job, and what its meta says of it."""

from __future__ import annotations

from oban_sa.errors import Suspended
from oban_sa.jobs.durable import resumed, suspension, waiting
from oban_sa.jobs.flow import LANES
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Attempt, judge
from oban_sa.sql.lanes import lanes

ATTEMPT = Attempt(1, 1, 1, {})
SLEEPS = Suspended("sleeps", delay=60.0, meta=waiting(until=5_000))
WAITS = Suspended("waits", delay=None, meta=waiting(until=None, signal="go"))


def test_a_suspension_gives_the_attempt_back_even_the_last_one() -> None:
    slept, waited = judge(ATTEMPT, SLEEPS), judge(ATTEMPT, WAITS)
    assert (slept.state, slept.delay, slept.refund, slept.error) == (JobState.SCHEDULED, 60.0, True, None)
    assert (waited.state, waited.delay, waited.refund, waited.error) == (JobState.SUSPENDED, None, True, None)
    assert slept.meta == {"journal": True, "wait_until": 5_000, "waits_for": None}
    assert waited.meta == {"journal": True, "wait_until": "infinity", "waits_for": "go"}


def test_of_several_the_one_that_is_due_first_counts() -> None:
    assert suspension(BaseExceptionGroup("tasks", [WAITS, BaseExceptionGroup("inner", [SLEEPS])])) is SLEEPS


def test_a_group_with_another_error_is_a_failure() -> None:
    group = BaseExceptionGroup("tasks", [WAITS, ValueError("no")])
    assert suspension(group) is None
    assert judge(ATTEMPT, group).state is JobState.DISCARDED


def test_what_a_job_waited_for_is_cleared() -> None:
    assert resumed({"wait_until": 5}) == {"wait_until": None, "waits_for": None}
    assert resumed({"waits_for": "go"}) == {"wait_until": None, "waits_for": None}
    assert resumed({"wait_until": None, "waits_for": None}) is None
    assert resumed({"journal": True}) is None
    assert resumed(None) is None


def test_the_look_for_notes_sees_the_lane_of_those_that_wait() -> None:
    assert f"generate_series(0, {LANES})" in str(lanes("public"))
