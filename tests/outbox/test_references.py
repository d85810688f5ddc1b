"""`ref(obj)` and `ref(obj, "attr")`: read at the flush, wherever it puts the row of the object."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event, func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidArguments, ReferenceOutsideSession
from oban_sa.jobs.references import ref
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.factories import a_job
from tests.places import Account, AppDatabase, Document, Lazy, Order, Pair, Report, User


def flushed(
    app_db: AppDatabase, build: Callable[[Session], Job], *, flush: Callable[[Session], Any] = Session.flush
) -> Any:
    """The stored args of the job that `build` enqueues, after checking that the object itself has the same."""

    def work(session: Session) -> Any:
        job = build(session)
        flush(session)
        with app_db.counting() as sent:
            seen = job.args
        assert sent == []
        session.commit()
        return seen

    seen = app_db.run(work, expire_on_commit=False)
    stored = next(job["args"] for job in app_db.jobs() if job["args"] == seen)
    assert app_db.run(lambda session: session.query(Job).filter_by(args=seen).count()) == 1
    return stored


FLUSHES = {
    "flush": Session.flush,
    "commit": Session.commit,
    "autoflush": lambda session: session.query(User).all(),
    "savepoint": lambda session: session.begin_nested().commit(),
}


@pytest.mark.parametrize("how", FLUSHES)
@pytest.mark.parametrize("kind", [User, Account, Lazy])
def test_a_key_that_does_not_exist_yet_is_there_after_any_kind_of_flush(
    app_db: AppDatabase, kind: Any, how: str
) -> None:
    made: list[Any] = []

    def build(session: Session) -> Job:
        made.append(kind())
        session.add(made[0])
        return enqueue(session, a_job(args={"deep": [{"id": ref(made[0])}]}))

    assert flushed(app_db, build, flush=FLUSHES[how]) == {"deep": [{"id": made[0].id}]}


def test_meta_may_hold_references_too(app_db: AppDatabase) -> None:
    def work(session: Session) -> int:
        user = User()
        session.add(user)
        enqueue(session, a_job(meta={"by": ref(user)}))
        session.commit()
        return user.id

    number = app_db.run(work)

    assert [(job["args"], job["meta"]) for job in app_db.jobs()] == [({}, {"by": number})]


def test_an_object_that_is_stored_already(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email="ada@example.com")
        session.add(user)
        session.commit()
        return enqueue(session, a_job(args={"id": ref(user), "to": ref(user, "email")}))

    assert flushed(app_db, build)["to"] == "ada@example.com"


def test_the_key_of_an_expired_object_costs_no_query(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        session.commit()
        session.expire(user)
        with app_db.counting() as sent:
            enqueue(session, a_job(args={"id": ref(user)}))
            session.flush()
        assert ["oban_jobs" in each and "pg_notify" in each for each in sent] == [True]

    app_db.run(work)


@pytest.mark.parametrize("kind", [User, Lazy])
def test_a_value_that_the_database_fills_in(app_db: AppDatabase, kind: Any) -> None:
    def build(session: Session) -> Job:
        made = kind()
        session.add(made)
        return enqueue(session, a_job(args={"slug": ref(made, "slug")}))

    assert flushed(app_db, build) == {"slug": "made-by-the-database"}


def test_a_value_that_a_default_in_python_fills_in(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User()
        session.add(user)
        return enqueue(session, a_job(args={"visits": ref(user, "visits")}))

    assert flushed(app_db, build) == {"visits": 7}


def test_a_value_that_sql_computes(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email="ADA", visits=1)
        other = User(email=func.lower("ADA"))
        session.add_all([user, other])
        session.flush()
        user.visits = User.visits + 1
        return enqueue(session, a_job(args={"visits": ref(user, "visits"), "email": ref(other, "email")}))

    assert flushed(app_db, build) == {"visits": 2, "email": "ada"}


def test_a_value_that_changes_after_enqueue_is_read_at_the_flush(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email="old@example.com")
        session.add(user)
        session.flush()
        job = enqueue(session, a_job(args={"to": ref(user, "email")}))
        user.email = "new@example.com"
        return job

    assert flushed(app_db, build) == {"to": "new@example.com"}


def test_a_value_that_differs_only_as_json_is_put_right(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        # The report needs its job's row, and so is written after it.
        report = Report(job=a_job())
        report.__dict__["pages"] = 1
        report.job.args = {"pages": ref(report, "pages")}
        session.add(report)
        session.commit()

    def too_late(mapper: Any, connection: Any, report: Report) -> None:
        report.__dict__["pages"] = True

    event.listen(Report, "before_insert", too_late)
    try:
        app_db.run(work)
    finally:
        event.remove(Report, "before_insert", too_late)

    assert app_db.jobs()[0]["args"]["pages"] is True


def test_nothing_is_a_value(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email=None)
        session.add(user)
        return enqueue(session, a_job(args={"to": ref(user, "email"), "from": ref(user, "email")}))

    assert flushed(app_db, build) == {"to": None, "from": None}


def test_a_property_of_the_class(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email="Ada")
        session.add(user)
        return enqueue(session, a_job(args={"text": ref(user, "greeting")}))

    assert flushed(app_db, build) == {"text": "Dear Ada"}


def test_a_uuid_becomes_text(app_db: AppDatabase) -> None:
    made = Document()

    def build(session: Session) -> Job:
        session.add(made)
        return enqueue(session, a_job(args={"document": ref(made)}))

    assert uuid.UUID(flushed(app_db, build)["document"]) == made.id


def test_an_object_that_depends_on_others_of_the_flush(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(orders=[Order(), Order()])
        session.add(user)
        return enqueue(session, a_job(args={"orders": [ref(each) for each in user.orders]}))

    assert len(set(flushed(app_db, build)["orders"])) == 2


def test_a_job_may_refer_to_another_job_and_to_itself(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        first = enqueue(session, a_job())
        second = a_job(args={"after": ref(first)})
        session.add(second)
        second.args = {**second.args, "me": ref(second)}
        return second

    args = flushed(app_db, build)

    assert [args["after"], args["me"]] == [job["id"] for job in app_db.jobs()]


def test_a_job_and_an_object_may_refer_to_each_other(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        report = Report()
        session.add(report)
        report.job = enqueue(session, a_job(args={"report": ref(report)}))
        return report.job

    flushed(app_db, build)

    assert app_db.count("reports JOIN oban_jobs ON oban_jobs.id = job_id WHERE args->>'report' = reports.id::text") == 1


def test_an_object_reached_by_a_cascade_is_in_the_session(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User()
        session.add(user)
        user.orders.append(Order())
        return enqueue(session, a_job(args={"order": ref(user.orders[0])}))

    assert flushed(app_db, build)["order"] > 0


def test_a_resolved_job_is_clean(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        job = enqueue(session, a_job(args={"user": ref(user)}))
        session.flush()
        assert job not in session.dirty
        with app_db.counting() as sent:
            session.commit()
        assert [statement for statement in sent if "pg_notify" not in statement] == []

    app_db.run(work)


def test_only_jobs_whose_references_were_late_are_updated(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        account = Account()
        session.add(account)
        enqueue(session, a_job(args={"account": ref(account)}))
        with app_db.counting() as sent:
            session.commit()
        assert ["UPDATE" in statement for statement in sent] == [False, False]

    app_db.run(work)


def test_the_key_of_a_deleted_object_is_still_its_key(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        user = User(email="ada@example.com")
        session.add(user)
        session.flush()
        session.delete(user)
        return enqueue(session, a_job(args={"gone": ref(user), "to": ref(user, "email")}))

    args = flushed(app_db, build)

    assert args["gone"] > 0
    assert args["to"] == "ada@example.com"
    assert app_db.count("users") == 0


def test_what_a_deleted_object_never_loaded_cannot_be_read(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        account = Account(name="ada")
        session.add(account)
        session.flush()
        session.delete(account)
        session.expire(account, ["name"])
        enqueue(session, a_job(args={"to": ref(account, "name")}))
        with pytest.raises(ReferenceOutsideSession, match="read the value before deleting it"):
            session.flush()

    app_db.run(work)


# Refused at enqueue


def test_an_object_that_left_the_session_is_refused(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        session.commit()
        session.expunge(user)
        with pytest.raises(ReferenceOutsideSession, match=r"args.user .* is detached; .*session.merge\(obj\)"):
            enqueue(session, a_job(args={"user": ref(user)}))
        assert session.info == {}

    app_db.run(work)


def test_an_object_of_another_session_is_refused() -> None:
    with Session() as session, Session() as other:
        user = User()
        other.add(user)
        with pytest.raises(ReferenceOutsideSession, match=r"args.user is ref\(<User>\), and .* another session"):
            enqueue(session, a_job(args={"user": ref(user)}))
        assert not session.new


def test_an_object_added_only_afterwards_is_refused_before_anything_is_staged() -> None:
    with Session() as session:
        first, second = User(), User()
        session.add(first)
        with pytest.raises(ReferenceOutsideSession, match=r"args.users\[1\] .* session.add\(obj\) first"):
            enqueue_many(
                session, [a_job(args={"users": [ref(first)]}), a_job(args={"users": [ref(first), ref(second)]})]
            )
        assert list(session.new) == [first]


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("emial", r"args.x is .*, and User has no attribute 'emial'; did you mean 'email'\?"),
        ("orders", r"'orders' is a relationship; refer to its object: ref\(obj.orders\)"),
    ],
)
def test_an_attribute_that_cannot_be_a_value_is_refused(attribute: str, words: str) -> None:
    with Session() as session:
        user = User()
        session.add(user)
        with pytest.raises(InvalidArguments, match=words) as refused:
            enqueue(session, a_job(args={"x": ref(user, attribute)}))
        assert refused.value.path == "args.x"


def test_a_key_of_several_columns_is_referred_to_column_by_column(app_db: AppDatabase) -> None:
    def build(session: Session) -> Job:
        pair = Pair(left=1, right=2)
        session.add(pair)
        with pytest.raises(InvalidArguments, match=r"write ref\(obj, 'left'\), ref\(obj, 'right'\)"):
            enqueue(session, a_job(args={"pair": ref(pair)}))
        return enqueue(session, a_job(args={"pair": [ref(pair, "left"), ref(pair, "right")]}))

    assert flushed(app_db, build) == {"pair": [1, 2]}


# Refused at the flush


def test_an_object_that_leaves_the_session_before_the_flush_is_refused_there(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job(args={"user": ref(user)}))
        session.expunge(user)
        with pytest.raises(ReferenceOutsideSession, match=r"args.user .* is in no session"):
            session.commit()
        session.rollback()

    app_db.run(work)

    assert (app_db.jobs(), app_db.heard()) == ([], [])


def test_an_object_that_the_flush_throws_out_as_an_orphan_is_refused(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User(orders=[Order()])
        order = user.orders[0]
        session.add(user)
        enqueue(session, a_job(args={"order": ref(order)}))
        user.orders.remove(order)
        with pytest.raises(ReferenceOutsideSession):
            session.commit()
        session.rollback()

    app_db.run(work)

    assert app_db.jobs() == []


def test_a_value_that_is_not_json_is_refused_with_its_path(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        user.__dict__["odd"] = {1}
        enqueue(session, a_job(args={"deep": [ref(user, "odd")]}))
        with pytest.raises(InvalidArguments, match=r"args.deep\[0\] is a set"):
            session.flush()

    app_db.run(work)


def test_a_job_whose_savepoint_rolls_back_refers_to_its_object_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user, kept = User(email="ada"), User()
        session.add(kept)
        first = a_job(args={"user": ref(user), "to": [ref(user, "email")]}, meta={"kept": ref(kept)})
        changed = a_job(args={"user": ref(user)})
        with suppress(LookupError), session.begin_nested():
            session.add(user)
            with session.begin_nested():  # released, and rolled back with the one around it
                enqueue_many(session, [first, changed])
                session.flush()
            assert first.args == {"user": user.id, "to": ["ada"]}
            changed.args = {"user": "somebody"}
            raise LookupError
        user.id, user.email = 4711, "grace"
        session.add(user)
        for job in (first, changed):
            enqueue(session, Job(job.worker, args=job.args, meta=job.meta))
        session.commit()

    app_db.run(work)

    assert [job["args"] for job in app_db.jobs()] == [{"user": 4711, "to": ["grace"]}, {"user": "somebody"}]
    assert isinstance(app_db.jobs()[0]["meta"]["kept"], int)


def test_a_job_of_a_flush_that_failed_refers_to_its_object_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(User(id=4711))
        session.commit()
        user = User()
        job = a_job(args={"user": ref(user)})
        session.add_all([user, User(id=4711)])  # whose rows are written after those of jobs
        enqueue(session, job)
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(user)
        enqueue(session, job)
        session.commit()
        assert job.args == {"user": user.id}

    app_db.run(work)

    assert isinstance(app_db.jobs()[0]["args"]["user"], int)
    assert app_db.count("users") == 2


def test_a_hybrid_of_an_expired_object_is_read_in_the_flush_and_not_before(app_db: AppDatabase) -> None:
    def add(session: Session) -> Job:
        user = User(email="ada@example.com")
        session.add(user)
        session.commit()
        with app_db.counting() as sent:
            job = enqueue(session, a_job(args={"to": ref(user, "shout"), "dear": ref(user, "greeting")}))
            with pytest.raises(InvalidArguments, match="no attribute 'shoot'; did you mean 'shout'"):
                enqueue(session, a_job(args={"to": ref(user, "shoot")}))
        assert sent == []
        session.commit()
        return job

    app_db.run(add)

    assert app_db.jobs()[0]["args"] == {"to": "ADA@EXAMPLE.COM", "dear": "Dear ada@example.com"}
