from __future__ import annotations

import json

from oban_sa.jobs.states import FINAL, STAGEABLE, JobState


def test_the_states_are_those_of_the_family_and_read_as_their_labels():
    assert {str(state) for state in JobState} == {
        "available", "suspended", "scheduled", "executing", "retryable", "completed", "discarded", "cancelled",
    }  # fmt: skip
    assert JobState("completed") is JobState.COMPLETED
    assert JobState.COMPLETED == "completed"
    assert json.dumps(JobState.COMPLETED) == '"completed"'


def test_a_final_state_is_never_staged_and_an_executing_job_is_neither():
    assert FINAL.isdisjoint(STAGEABLE)
    assert JobState.EXECUTING not in FINAL | STAGEABLE
    assert JobState.AVAILABLE not in FINAL | STAGEABLE
