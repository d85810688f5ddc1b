"""What announcements say beside the queue: how many jobs it received, and whether some are due soon."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from oban_sa import Job, enqueue, enqueue_many
from oban_sa.outbox import announcements
from oban_sa.outbox.concurrent_commits import Commit
from tests.places import AppDatabase


def said(app_db: AppDatabase) -> list[tuple[str, int | None, bool]]:
    return [
        (payload.split('"')[3], news.jobs, news.due)
        for (_, payload), news in zip(app_db.heard(), app_db.news, strict=True)
    ]


def test_the_jobs_of_each_queue_are_counted(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue_many(session, [Job("w") for _ in range(3)])
        enqueue(session, Job("w", queue="other"))
        enqueue(session, Job("w", queue="later", schedule_in=timedelta(hours=1)))
        session.commit()

    app_db.run(work)
    assert said(app_db) == [("default", 3, False), ("other", 1, False)]


@pytest.mark.parametrize("available", [0, 2])
def test_a_job_that_is_due_soon_is_told_of_and_not_counted(app_db: AppDatabase, available: int) -> None:
    def work(session: Session) -> None:
        enqueue(session, Job("w", schedule_in=timedelta(seconds=0.5)))
        enqueue_many(session, [Job("w") for _ in range(available)])
        session.commit()

    app_db.run(work)
    assert said(app_db) == [("default", available, True)]


def test_jobs_of_several_savepoints_are_added_up(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for count in (1, 2):
            with session.begin_nested():
                enqueue_many(session, [Job("w") for _ in range(count)])
        session.commit()

    app_db.run(work)
    assert said(app_db) == [("default", 3, False)]


def test_each_announcement_has_a_turn_of_its_own(app_db: AppDatabase) -> None:
    turns: set[int] = set()
    for _ in range(3):
        app_db.run(lambda session: (enqueue(session, Job("w")), session.commit()))
        app_db.heard()
        turns |= {news.turn for news in app_db.news}
    assert len(turns) == 3


def test_what_was_announced_already_is_not_told_of_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for _ in range(2):
            enqueue(session, Job("w"))
            session.flush()
        session.commit()

    app_db.run(work)
    assert app_db.heard() == [("public.oban_insert", '{"queue":"default"}')]
    assert [news.jobs for news in app_db.news] == [1]


def test_a_job_that_is_due_soon_is_told_of_though_others_were_announced_before(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, Job("w"))
        session.flush()
        enqueue(session, Job("w", schedule_in=timedelta(seconds=0.5)))
        session.commit()

    app_db.run(work)
    assert said(app_db) == [("default", 1, False), ("default", 0, True)]


def test_a_commit_that_leaves_its_queue_to_another_tells_of_a_job_that_is_due_soon(
    app_db: AppDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "_announces_early", lambda *_: False)
    monkeypatch.setattr(Commit, "announces", lambda *_: [])
    monkeypatch.setattr(Commit, "committed", lambda _: [])

    def work(session: Session) -> None:
        enqueue(session, Job("w"))
        enqueue(session, Job("w", queue="soon"))
        enqueue(session, Job("w", queue="soon", schedule_in=timedelta(seconds=0.5)))
        session.commit()

    app_db.run(work)
    assert said(app_db) == [("soon", 0, True)]
