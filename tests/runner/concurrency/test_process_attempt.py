"""What an attempt in a process asks, and when it waits no more for an answer."""

from __future__ import annotations

from typing import Any

import pytest

from oban_sa import Job
from oban_sa.errors import AttemptLost
from oban_sa.runner.concurrency.processes.attempt import ProcessAttempt
from oban_sa.runner.concurrency.processes.protocol import Ask, Told, failed


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def attempt(sent: list[Any]) -> ProcessAttempt:
    return ProcessAttempt(Ask(7, "w", "m", {}), Job("w", id=1), sent.append)


def test_answers_find_their_questions_in_any_order(attempt: ProcessAttempt, sent: list[Any]) -> None:
    first, second = attempt.ask("read"), attempt.ask("mark")
    assert [(each.number, each.asked, each.what) for each in sent] == [(7, 1, "read"), (7, 2, "mark")]
    attempt.told(Told(7, 2, "two"))
    attempt.told(Told(7, 1, "one"))
    assert (first.result(0), second.result(0)) == ("one", "two")


def test_an_error_of_the_journal_is_raised_where_it_was_asked(attempt: ProcessAttempt) -> None:
    asked = attempt.ask("read")
    attempt.told(Told(7, 1, None, failed(7, AttemptLost("gone"), None)))
    with pytest.raises(AttemptLost, match="gone"):
        asked.result(0)


def test_an_answer_for_another_attempt_or_given_twice_is_dropped(attempt: ProcessAttempt) -> None:
    asked = attempt.ask("read")
    attempt.told(Told(6, 1, "that of the call before"))
    assert not asked.done()
    attempt.told(Told(7, 1, "mine"))
    attempt.told(Told(7, 1, "again"))
    assert asked.result(0) == "mine"


def test_nothing_waits_once_the_code_has_ended(attempt: ProcessAttempt, sent: list[Any]) -> None:
    before = attempt.ask("read")
    attempt.end()
    with pytest.raises(AttemptLost, match="the attempt has ended"):
        before.result(0)
    with pytest.raises(AttemptLost, match="the attempt has ended"):
        attempt.ask("read").result(0)
    assert len(sent) == 1
    attempt.told(Told(7, 1, "too late"))


def test_code_without_steps_loads_nothing_of_them(attempt: ProcessAttempt) -> None:
    assert "journal" not in vars(attempt)
    attempt.end()
    assert "journal" not in vars(attempt)
