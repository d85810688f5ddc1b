"""The step of a flush that writes plain jobs by one statement, and what it leaves to the mapper."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Text, cast, event, inspect, literal, select
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.exc import FlushError

from oban_sa import hooks
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox import rows, save_action
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.factories import a_job, announced
from tests.places import AppDatabase, Order, Report, User
from tests.support import sync_url

MOMENT = datetime(2030, 1, 2, tzinfo=UTC)


def writers(sent: list[str]) -> list[str]:
    """Who sent each INSERT of jobs."""
    found = [each for each in sent if "INSERT INTO public.oban_jobs" in each]
    return ["mapper" if "VALUES" in each else "outbox" for each in found]


# SQLAlchemy without one of the names


class Without:
    """An object that lacks one attribute, and is otherwise `target`."""

    def __init__(self, target: Any, name: str) -> None:
        self.target, self.name = target, name

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            raise AttributeError(name)
        return getattr(self.target, name)


def take_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it seem to the outbox that this version of SQLAlchemy has no such name."""
    monkeypatch.setattr(save_action, "_told", False)
    if name in ("_dependency_processors", "SaveUpdateAll", "DeleteAll"):
        with monkeypatch.context() as importing:
            if name != "_dependency_processors":
                importing.setattr(save_action, "_Action" if name == "SaveUpdateAll" else "_Delete", None)
            else:
                importing.delattr(Job.__mapper__, name)
            save_action.join(lambda session, states: False, lambda session, states: [])
        monkeypatch.setattr(Job.__mapper__, "_dependency_processors", [])
    elif name in ("postsort_actions", "presort_actions", "dependencies"):
        joined = save_action._Join.per_property_preprocessors
        monkeypatch.setattr(
            save_action._Join, "per_property_preprocessors", lambda join, uow: joined(join, Without(uow, name))
        )
    elif name == "insert_order":
        monkeypatch.setattr(save_action, "_order", lambda state: Without(state, name).insert_order)
    else:
        for function in "_new_jobs", "_has_deleted":
            found = getattr(save_action, function)
            monkeypatch.setattr(
                save_action, function, lambda action, uow, found=found: found(action, Without(uow, name))
            )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "SaveUpdateAll",
            "DeleteAll",
            "_dependency_processors",
            "postsort_actions",
            "presort_actions",
            "dependencies",
        ),
        *("states_for_mapper_hierarchy", "session", "insert_order"),
    ],
)
def test_without_a_name_of_sqlalchemys_the_mapper_writes_all_and_the_log_says_so_once(
    app_db: AppDatabase, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job(args={"user": ref(user)}))
        enqueue_many(session, [a_job("many", args={"n": n}) for n in range(3)])
        session.flush()
        with session.begin_nested() as savepoint:
            lost = enqueue(session, a_job("lost"))
            session.flush()
            savepoint.rollback()
        assert inspect(lost).transient
        session.add(Report(job=a_job("related")))
        session.commit()

    take_away(name, monkeypatch)
    with caplog.at_level(logging.WARNING, "oban_sa"), app_db.counting() as sent:
        app_db.run(work)

    assert set(writers(sent)) == {"mapper"}
    assert [job["queue"] for job in app_db.jobs()] == ["default", "many", "many", "many", "related"]
    assert isinstance(app_db.jobs()[0]["args"]["user"], int)
    assert sorted(app_db.heard()) == announced("default", "many", "related")
    assert len([record for record in caplog.records if "written by the mapper" in record.message]) == 1


# What the mapper writes


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: a_job(id=4711), id="id"),
        pytest.param(lambda: a_job(errors=[{"at": "then", "attempt": 1, "error": "no"}]), id="errors"),
        pytest.param(lambda: a_job(attempt=1, state=JobState.RETRYABLE), id="attempt"),
        pytest.param(lambda: a_job(attempted_by=["node"]), id="attempted_by"),
        pytest.param(lambda: a_job(inserted_at=MOMENT), id="inserted_at"),
        pytest.param(lambda: a_job(completed_at=MOMENT, state=JobState.COMPLETED), id="completed_at"),
    ],
)
def test_a_job_with_a_past_is_written_by_the_mapper_and_those_beside_it_too(
    app_db: AppDatabase, make: Callable[[], Job]
) -> None:
    def work(session: Session) -> None:
        before, job, after = a_job("before"), make(), a_job("after")
        session.add_all([before, job, after])
        session.commit()
        assert before.id < after.id
        assert all(job.inserted_at and job.scheduled_at for job in (before, job, after))

    with app_db.counting() as sent:
        app_db.run(work)

    assert set(writers(sent)) == {"mapper"}
    assert {job["queue"] for job in app_db.jobs()} == {"before", "default", "after"}


def test_a_job_with_an_expression_is_written_by_the_mapper(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = a_job()
        vars(job)["worker"] = cast(literal("a.Worker"), Text)
        session.add(job)
        session.commit()
        assert job.worker == "a.Worker"

    with app_db.counting() as sent:
        app_db.run(work)

    assert writers(sent) == ["mapper"]


_SUBCLASS = """
import sys
from sqlalchemy import create_engine, event, literal, select
from sqlalchemy.orm import Session, column_property
from sqlalchemy.orm.exc import DetachedInstanceError
from oban_sa import Job, enqueue
from oban_sa.outbox.rows import let_go

sent = []
engine = create_engine(sys.argv[1])
event.listen(engine, "before_cursor_execute", lambda *of: sent.append(of[2].split()[0]))

def write(*jobs):
    sent.clear()
    with Session(engine) as session, session.begin():
        for job in jobs:
            enqueue(session, job)
    return sent.copy()

class Mine(Job):
    pass

print(write(Job("w")), write(Mine("w")), write(Job("w"), Mine("w"))[-1])
Job.__mapper__.add_property("shown", column_property(Job.__table__.c.queue + "!"))
print(write(Job("w")))
with Session(engine) as session:
    print(session.query(Job).count(), {job.shown for job in session.query(Job)})

job = Job("w")
vars(job).update(id=1, errors=[])
let_go(job)
try:
    print(job.shown)
except DetachedInstanceError:
    print("detached")
"""


def test_subclasses_and_columns_of_the_program_are_the_mappers(database_url: str) -> None:
    # In a process of its own: a mapper never forgets them.
    url = sync_url(database_url, "psycopg")
    ran = subprocess.run([sys.executable, "-c", _SUBCLASS, url], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "['INSERT'] ['INSERT', 'SELECT'] SELECT",
        "['INSERT', 'SELECT']",
        "5 {'default!'}",
        "detached",
    ]


@pytest.mark.parametrize("name", ["before_insert", "after_insert"])
@pytest.mark.parametrize("target", [Job, Mapper])
def test_a_program_that_listens_to_inserts_hears_of_those_of_jobs(app_db: AppDatabase, name: str, target: Any) -> None:
    seen: list[Any] = []

    def listener(mapper: Any, connection: Any, job: Any) -> None:
        seen.append(job)

    def work(session: Session) -> list[Job]:
        jobs = enqueue_many(session, [a_job(), a_job()])
        session.commit()
        return jobs

    event.listen(target, name, listener)
    try:
        with app_db.counting() as sent:
            jobs = app_db.run(work)
    finally:
        event.remove(target, name, listener)

    assert seen == jobs
    assert set(writers(sent)) == {"mapper"}


def test_a_flush_writes_new_jobs_and_deletes_others(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        old, *_ = enqueue_many(session, [a_job("old"), a_job("kept")])
        session.flush()
        session.delete(old)
        enqueue(session, a_job("new"))
        with app_db.counting() as sent:
            session.flush()
        assert writers(sent) == ["outbox"]
        assert len(sent) == 2
        assert inspect(old).deleted
        enqueue(session, a_job("next"))
        with app_db.counting() as sent:
            session.commit()
        assert len(sent) == 1

    app_db.run(work)
    assert [job["queue"] for job in app_db.jobs()] == ["kept", "new", "next"]


def test_a_flush_that_changes_a_job_writes_the_new_ones_by_the_mapper(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first = enqueue(session, a_job())
        session.commit()
        first.meta = {"changed": True}
        enqueue(session, a_job("second"))
        with app_db.counting() as sent:
            session.commit()
        assert writers(sent) == ["mapper"]

    app_db.run(work)

    assert [(job["queue"], job["meta"]) for job in app_db.jobs()] == [("default", {"changed": True}), ("second", {})]


def test_a_hook_is_shown_each_job_once_also_where_it_makes_one_that_only_the_mapper_can_write(
    app_db: AppDatabase,
) -> None:
    seen: list[str] = []

    def hook(job: Job) -> None:
        seen.append(job.queue)
        if job.queue == "b":
            job.errors = [{"at": "then", "attempt": 1, "error": "no"}]

    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue_many(session, [a_job("a"), a_job("b", args={"user": ref(user)}), a_job("c", schedule_in=60)])
        session.commit()

    remove = hooks.before_insert(hook)
    try:
        with app_db.counting() as sent:
            app_db.run(work)
    finally:
        remove()

    assert seen == ["a", "b", "c"]
    assert set(writers(sent)) == {"mapper"}
    assert [job["queue"] for job in app_db.jobs()] == ["a", "b", "c"]
    assert sorted(app_db.heard()) == announced("a", "b")


def test_an_engine_without_insertmanyvalues_needs_no_more_statements(app_db: AppDatabase) -> None:
    if app_db.driver != "psycopg":
        pytest.skip("the option is one of SQLAlchemy's, and no driver's")
    from sqlalchemy import create_engine

    sent: list[str] = []
    engine = create_engine(app_db.engine.url, use_insertmanyvalues=False)
    event.listen(engine, "before_cursor_execute", lambda *of: sent.append(of[2]))
    with Session(engine) as session, session.begin():
        enqueue_many(session, [a_job(), a_job(schedule_in=60)])
    engine.dispose()

    assert writers(sent) == ["outbox"]
    assert len(sent) == 1


# What one statement writes


def test_jobs_that_differ_in_everything_share_a_statement_and_keep_their_order(app_db: AppDatabase) -> None:
    def jobs() -> list[Job]:
        return [
            a_job("plain"),
            a_job("tags", tags=["a", 'quo"te', "back\\slash", "comma,", "{brace}"]),
            a_job("meta", meta={"one": 1, "true": True}),
            a_job("meta", meta={"one": True, "true": 1}),
            a_job("moment", scheduled_at=MOMENT, priority=9),
            a_job("span", schedule_in=60, max_attempts=1),
            a_job("nested", args={"a": [1, {"b": None}], "c": "d'\u00e9\u2028"}),
            a_job("completed", state=JobState.COMPLETED),
        ]

    def work(session: Session) -> None:
        made = jobs()
        session.add_all(made)
        with app_db.counting() as sent:
            session.flush()
        assert writers(sent) == ["outbox"]
        assert len(sent) == 1
        columns = ("queue", "args", "meta", "tags", "priority", "max_attempts", "state", "errors", "attempt")
        columns += ("attempted_by", "inserted_at", "scheduled_at", "completed_at", "worker")
        given = [[getattr(job, column) for column in columns] for job in made]
        assert [job.id for job in made] == sorted(job.id for job in made)
        session.commit()
        session.expire_all()
        stored = session.scalars(select(Job).order_by(Job.id)).all()
        assert [[getattr(job, column) for column in columns] for job in stored] == given
        assert list(map(str, (job.meta for job in stored))) == list(map(str, (job.meta for job in jobs())))

    app_db.run(work)

    assert sorted(app_db.heard()) == announced("meta", "nested", "plain", "tags")


def test_large_args_are_several_statements_of_which_the_last_announces(
    app_db: AppDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SIZE", 1_000)

    def work(session: Session) -> None:
        jobs = enqueue_many(session, [a_job(args={"n": n, "text": "x" * 480}) for n in range(5)])
        session.commit()
        assert [job.id for job in jobs] == sorted(job.id for job in jobs)

    with app_db.counting() as sent:
        app_db.run(work)

    assert ["pg_notify" in each for each in sent] == [False, True]
    assert [job["args"]["n"] for job in app_db.jobs()] == [0, 1, 2, 3, 4]
    assert app_db.heard() == announced("default")


def test_a_trigger_that_takes_rows_away_is_noticed(app_db: AppDatabase) -> None:
    app_db.execute(
        "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.queue = 'b' THEN RETURN NULL; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER drop_row BEFORE INSERT ON oban_jobs FOR EACH ROW EXECUTE FUNCTION drop_row()"
    )

    def work(session: Session) -> None:
        enqueue_many(session, [a_job("a"), a_job("b"), a_job("c")])
        with pytest.raises(FlushError, match="3 jobs were inserted, and 2 rows came back"):
            session.commit()

    try:
        app_db.run(work)
    finally:
        app_db.execute("DROP TRIGGER drop_row ON oban_jobs; DROP FUNCTION drop_row")

    assert (app_db.jobs(), app_db.heard()) == ([], [])


# When


def test_a_job_is_written_after_rows_that_depend_on_others_so_that_its_references_need_no_update(
    app_db: AppDatabase,
) -> None:
    def work(session: Session) -> None:
        order = Order(user=User())
        session.add(order)
        job = enqueue(session, a_job(args={"order": ref(order), "user": ref(order, "user_id")}))
        with app_db.counting() as sent:
            session.commit()
        assert job.args == {"order": order.id, "user": order.user_id}
        tables = [each.partition("INSERT INTO ")[2].split()[0] for each in sent]
        assert tables == ["users", "orders", "public.oban_jobs"]

    app_db.run(work, expire_on_commit=False)


def test_a_job_that_another_row_needs_is_written_before_it_and_refers_to_it_all_the_same(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        report = Report(job=a_job())
        session.add(report)
        session.add(User())
        report.job.args = {"report": ref(report)}
        with app_db.counting() as sent:
            session.commit()
        assert report.job.args == {"report": report.id}
        assert report.job_id == report.job.id
        assert writers(sent) == ["outbox"]
        assert ["UPDATE public.oban_jobs" in each for each in sent][-1]

    app_db.run(work, expire_on_commit=False)

    assert app_db.heard() == announced("default")


def test_a_job_enqueued_in_a_flush_by_the_programs_own_listener_is_written_by_it(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        @event.listens_for(session, "before_flush")
        def audit(session: Session, *rest: Any) -> None:
            for user in [each for each in session.new if isinstance(each, User)]:
                enqueue(session, a_job("audit", args={"user": ref(user)}))

        session.add(User())
        with app_db.counting() as sent:
            session.commit()
        assert writers(sent) == ["outbox"]
        assert len(sent) == 2

    app_db.run(work)

    assert app_db.heard() == announced("audit")
