"""A workflow is written by its session, with its jobs and all other rows, by every driver."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from oban_sa import Batch, Job, Workflow, chain, enqueue, enqueue_many, ref
from oban_sa.errors import InvalidArguments, InvalidJob, SessionEnded
from oban_sa.flows.parts import Member
from tests.places import AppDatabase, User


def new(**options: Any) -> Job:
    return Job("shop.work", **options)


def diamond(name: str | None = "nightly", **options: Any) -> Workflow:
    flow = Workflow(name, **options)
    flow.add("a", new(queue="first"))
    flow.add("b", new(), deps="a")
    flow.add("c", new(), deps="a", forgive="discarded")
    flow.add("d", new(), deps=["b", "c"])
    return flow


@pytest.fixture(autouse=True)
def empty(app_db: AppDatabase) -> None:
    app_db.execute(
        "TRUNCATE oban_sa_flows, oban_sa_members, oban_sa_edges, oban_sa_gates, oban_sa_endings RESTART IDENTITY"
    )


def found(db: AppDatabase, statement: str) -> list[tuple[Any, ...]]:
    return db.run(lambda session: [tuple(row) for row in session.execute(text(statement))])


def counts(db: AppDatabase) -> tuple[int, ...]:
    names = ("jobs", "sa_flows", "sa_members", "sa_edges", "sa_gates", "sa_endings")
    return tuple(db.count(f"oban_{name}") for name in names)


def test_rows_of_a_workflow_are_written_with_its_jobs(app_db: AppDatabase) -> None:
    flow = diamond(context={"tenant": 7})

    def work(session: Session) -> None:
        assert enqueue(session, flow) is flow
        session.commit()

    app_db.run(work)
    assert not flow.conflict
    assert counts(app_db) == (4, 1, 4, 4, 0, 0)
    states = [(each["state"], each["meta"]["name"], each["meta"]["workflow_id"]) for each in app_db.jobs()]
    assert states == [
        (state, name, str(flow.id))
        for state, name in zip(("available", "suspended", "suspended", "suspended"), "abcd", strict=True)
    ]
    assert found(app_db, "SELECT name, waiting, settled, doomed FROM oban_sa_members ORDER BY job_id") == [
        ("a", 0, None, None),
        ("b", 1, None, None),
        ("c", 1, None, None),
        ("d", 2, None, None),
    ]
    [row] = found(app_db, "SELECT id, root_id, path, kind, name, total, unfinished, context FROM oban_sa_flows")
    assert [str(each) for each in row[:2]] == [str(flow.id)] * 2
    assert row[3:] == ("workflow", "nightly", 4, 4, {"tenant": 7})
    edges = found(
        app_db,
        "SELECT p.name, c.name, e.forgives FROM oban_sa_edges e JOIN oban_sa_members p ON p.job_id = e.parent_id "
        "JOIN oban_sa_members c ON c.job_id = e.child_id ORDER BY 1, 2",
    )
    assert edges == [("a", "b", 0), ("a", "c", 2), ("b", "d", 0), ("c", "d", 0)]


def test_only_the_queues_of_those_that_begin_are_announced(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, diamond())
        session.commit()

    app_db.run(work)
    assert app_db.heard() == [("public.oban_insert", '{"queue":"first"}')]


def test_groups_and_empty_ones_are_written(app_db: AppDatabase) -> None:
    flow = Workflow()
    thumbs = flow.add_many("thumbs", [new() for _ in range(3)])
    flow.add_many("none", [])
    flow.add("zip", new(), deps=[thumbs, "none"])

    def work(session: Session) -> None:
        enqueue(session, flow)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (4, 3, 4, 0, 2, 1)
    assert found(app_db, "SELECT f.name FROM oban_sa_endings e JOIN oban_sa_flows f ON f.id = e.flow_id") == [("none",)]
    paths = found(app_db, "SELECT name, cardinality(path), total FROM oban_sa_flows ORDER BY name")
    assert paths == [("none", 2, 0), ("thumbs", 2, 3), (None, 1, 4)]


def test_references_of_members_and_of_the_context_become_keys(app_db: AppDatabase) -> None:
    user = User(email="a@b")
    flow = Workflow(context={"user": ref(user)})
    flow.add("mail", new(args={"user": ref(user)}))

    def work(session: Session) -> int:
        session.add(user)
        enqueue(session, flow)
        session.commit()
        return user.id

    key = app_db.run(work)
    assert app_db.jobs()[0]["args"] == {"user": key}
    assert found(app_db, "SELECT context FROM oban_sa_flows") == [({"user": key},)]


def test_a_rollback_leaves_nothing_and_the_workflow_can_be_enqueued_again(app_db: AppDatabase) -> None:
    flow = diamond()

    def work(session: Session) -> None:
        enqueue(session, flow)
        session.flush()
        session.rollback()
        enqueue(session, new())
        session.commit()
        assert counts(app_db) == (1, 0, 0, 0, 0, 0)
        enqueue(session, flow)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (5, 1, 4, 4, 0, 0)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_savepoint_that_is_rolled_back_takes_the_workflow_along(app_db: AppDatabase, flushed: bool) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        enqueue(session, diamond())
        if flushed:
            session.flush()
        savepoint.rollback()
        enqueue(session, new())
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (1, 0, 0, 0, 0, 0)


def test_a_workflow_that_is_enqueued_twice_in_a_session_is_written_once(app_db: AppDatabase) -> None:
    flow = diamond()

    def work(session: Session) -> None:
        enqueue(session, flow)
        enqueue(session, flow)
        session.commit()
        with pytest.raises(InvalidJob, match="is stored already"):
            enqueue(session, flow)

    app_db.run(work)
    assert counts(app_db) == (4, 1, 4, 4, 0, 0)


def test_a_session_that_went_on_in_another_does_not_write_the_workflow_twice(app_db: AppDatabase) -> None:
    flow = diamond()

    def first(session: Session) -> None:
        enqueue(session, flow)
        session.rollback()

        if app_db.driver != "asyncpg":
            app_db.run(second)
        enqueue(session, new())
        session.commit()

    def second(session: Session) -> None:
        enqueue(session, flow)
        session.commit()

    app_db.run(first)
    assert app_db.count("oban_sa_flows") == (0 if app_db.driver == "asyncpg" else 1)


def test_a_job_that_is_taken_out_of_the_session_fails_the_flush(app_db: AppDatabase) -> None:
    flow = diamond()

    def work(session: Session) -> None:
        enqueue(session, flow)
        session.expunge(flow.parts["c"].job)  # type: ignore[attr-defined]
        with pytest.raises(InvalidJob, match="the member 'c' of a workflow was not written with the others"):
            session.flush()
        session.rollback()

    app_db.run(work)
    assert counts(app_db) == (0, 0, 0, 0, 0, 0)


def test_jobs_that_the_mapper_writes_are_members_too(app_db: AppDatabase) -> None:
    flow = Workflow()
    flow.add("a", new(errors=[{"attempt": 1, "error": "x", "at": "2026-01-01T00:00:00Z"}]))
    flow.add("b", new(), deps="a")

    def work(session: Session) -> None:
        enqueue(session, flow)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (2, 1, 2, 1, 0, 0)


def test_of_a_unique_workflow_the_second_is_not_written(app_db: AppDatabase) -> None:
    first, second = diamond(unique=True), diamond(unique=True)

    def work(session: Session) -> None:
        enqueue(session, first)
        session.commit()
        enqueue(session, second)
        session.add(User(email="kept"))
        session.commit()

    app_db.run(work)
    assert (first.conflict, second.conflict) == (False, True)
    assert counts(app_db) == (4, 1, 4, 4, 0, 0)
    assert app_db.count("users") == 1


def test_two_unique_workflows_in_one_flush_are_one(app_db: AppDatabase) -> None:
    first, second = diamond(unique=True), diamond(unique=True)

    def work(session: Session) -> None:
        enqueue(session, first)
        enqueue(session, second)
        session.commit()

    app_db.run(work)
    assert (first.conflict, second.conflict) == (False, True)
    assert counts(app_db) == (4, 1, 4, 4, 0, 0)


def test_a_unique_workflow_that_is_over_stands_in_no_other_s_way(app_db: AppDatabase) -> None:
    first, second = chain(new()), diamond(unique=True)

    def work(session: Session) -> None:
        enqueue(session, diamond(unique=True))
        session.commit()
        session.execute(text("UPDATE oban_sa_flows SET completed_at = now(), unique_name = NULL"))
        enqueue(session, second)
        enqueue(session, first)
        session.commit()

    app_db.run(work)
    assert not second.conflict
    assert app_db.count("oban_sa_flows") == 3


def test_two_sessions_at_once_write_one_unique_workflow(app_db: AppDatabase) -> None:
    if app_db.driver != "psycopg":
        pytest.skip("needs two sessions at once, and one driver will do")
    first, second = diamond(unique=True), diamond(unique=True)

    def other() -> None:
        with Session(app_db.engine) as session:
            enqueue(session, second)
            session.commit()

    with Session(app_db.engine) as session:
        enqueue(session, first)
        session.flush()
        thread = threading.Thread(target=other)
        thread.start()  # and waits for this transaction
        session.commit()
        thread.join()
    assert (first.conflict, second.conflict) == (False, True)
    assert counts(app_db) == (4, 1, 4, 4, 0, 0)


def test_what_a_workflow_sets_in_meta_is_not_overwritten_in_silence(app_db: AppDatabase) -> None:
    flow = Workflow()
    flow.add("a", new(meta={"name": "mine", "other": 1}))

    def work(session: Session) -> None:
        with pytest.raises(InvalidJob, match="the meta of member 'a' has the key 'name'"):
            enqueue(session, flow)
        assert not session.new

    app_db.run(work)


def test_a_context_that_is_no_json_is_refused_at_once(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with pytest.raises(InvalidJob, match="context"):
            enqueue(session, diamond(context={"at": object()}))
        with pytest.raises(InvalidJob, match=r"the context of a unique workflow can't hold ref\(...\)"):
            user = User()
            session.add(user)
            enqueue(session, diamond(context={"user": ref(user)}, unique=True))
        session.rollback()

    app_db.run(work)


def test_a_session_that_has_ended_takes_no_workflow(app_db: AppDatabase) -> None:
    from sqlalchemy import event

    def work(session: Session) -> None:
        seen: list[Exception] = []

        def after(session: Session) -> None:
            try:
                enqueue(session, diamond())
            except SessionEnded as error:
                seen.append(error)

        session.execute(text("SELECT 1"))
        event.listen(session, "after_commit", after)
        session.commit()
        assert len(seen) == 1

    app_db.run(work)
    assert counts(app_db) == (0, 0, 0, 0, 0, 0)


def test_a_refused_workflow_leaves_its_jobs_as_they_were(app_db: AppDatabase) -> None:
    flow, mine = Workflow(), new(meta={"mine": 1})
    flow.add("a", new())
    flow.add("b", mine, deps="a")
    flow.add("c", new(args={"x": object()}))

    def work(session: Session) -> None:
        with pytest.raises(InvalidArguments, match=r"jobs\[2\].args.x is an object"):
            enqueue(session, flow)
        enqueue(session, mine)
        session.commit()

    app_db.run(work)
    [written] = app_db.jobs()
    assert (written["state"], written["meta"]) == ("available", {"mine": 1})
    assert counts(app_db) == (1, 0, 0, 0, 0, 0)


def test_where_a_workflow_is_refused_the_second_time_it_is_written_as_it_was(app_db: AppDatabase) -> None:
    batch = Batch([new()])

    def work(session: Session) -> None:
        enqueue(session, batch)
        batch.jobs.append(new(args={"x": object()}))
        with pytest.raises(InvalidArguments):
            enqueue(session, batch)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (1, 1, 1, 0, 0, 0)


@pytest.mark.parametrize("how", ["rolled back", "conflict"])
def test_a_member_that_waits_is_not_enqueued_alone(app_db: AppDatabase, how: str) -> None:
    flow = diamond(unique=how == "conflict")
    [waiting] = [part.job for part in flow.parts.values() if isinstance(part, Member) and part.name == "b"]

    def work(session: Session) -> None:
        if how == "conflict":
            enqueue(session, diamond(unique=True))
            session.flush()
        enqueue(session, flow)
        if how == "conflict":
            session.commit()
            assert flow.conflict
        else:
            session.flush()
            session.rollback()
        with pytest.raises(InvalidJob, match="alone would wait for ever; enqueue the workflow, or a new job"):
            enqueue(session, waiting)
        with pytest.raises(InvalidJob, match="alone would wait for ever"):
            enqueue_many(session, [waiting])
        session.rollback()

    app_db.run(work)


def test_a_job_is_in_one_workflow_or_batch(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for _ in range(24):  # of eight lanes some are the same
            twice, flow = new(), Workflow()
            flow.add("a", twice)
            batch = Batch([twice])
            first, second = (flow, batch) if _ % 2 else (batch, flow)
            enqueue(session, first)
            with pytest.raises(InvalidJob, match="was enqueued in another workflow or batch; make a new Job for each"):
                enqueue(session, second)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (24, 24, 24, 0, 0, 0)


def test_what_has_no_jobs_is_stored_once(app_db: AppDatabase) -> None:
    batch = Batch([])

    def work(session: Session) -> None:
        enqueue(session, batch)
        session.flush()
        session.rollback()
        enqueue(session, batch)
        enqueue(session, batch)
        session.commit()
        with pytest.raises(InvalidJob, match="<Batch> is stored already; make a new one"):
            enqueue(session, batch)
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (0, 1, 0, 0, 0, 1)


def test_what_is_added_after_a_workflow_was_enqueued_is_refused(app_db: AppDatabase) -> None:
    words = (
        r"was enqueued already, and 'late' would not be written .* await oban.append\(session, flow.id, 'late', job\)"
    )
    plain, grouped, outer = diamond(), Workflow(), Workflow()
    grouped.add_many("none", [])
    grouped.add_many("some", [new()])
    outer.add_workflow("inner", diamond())

    def work(session: Session) -> None:
        for flow in (plain, grouped, outer):
            enqueue(session, flow)
            with pytest.raises(InvalidJob, match=words):
                flow.add("late", new())
            with pytest.raises(InvalidJob, match=words):
                flow.add_many("late", [new()])
        session.rollback()
        for flow in (plain, grouped, outer):
            flow.add("late", new())  # nothing of it was written
            enqueue(session, flow)
            session.commit()
            with pytest.raises(InvalidJob, match="was enqueued already, and 'later' would not"):
                flow.add("later", new())

    app_db.run(work)
    assert counts(app_db)[:3] == (12, 6, 12)
