"""What `Job(...)` accepts, normalizes and refuses; no database is needed."""

from __future__ import annotations

import pickle
import re
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from oban_sa import hooks
from oban_sa.errors import InvalidJob, InvalidPeriod, NaiveMoment
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job, validation
from oban_sa.models.template import Pattern
from oban_sa.wire import erlang
from oban_sa.workers import Registry, Worker, worker
from oban_sa.workers import job as job_

NOON = datetime(2030, 1, 2, 12, 0, tzinfo=UTC)


def row(**values: Any) -> dict[str, Any]:
    """A row of `oban_jobs` as asyncpg brings it."""
    return {
        "id": 7,
        "state": "executing",
        "queue": "mailers",
        "worker": "app.mail.Welcome",
        "args": {"user_id": 1},
        "meta": {},
        "tags": [],
        "errors": [],
        "attempt": 1,
        "max_attempts": 20,
        "priority": 0,
        "attempted_by": ["node", "uuid"],
        "inserted_at": datetime(2030, 1, 2, 12),
        "scheduled_at": datetime(2030, 1, 2, 12),
        "attempted_at": datetime(2030, 1, 2, 12),
        "cancelled_at": None,
        "completed_at": None,
        "discarded_at": None,
        **values,
    }


def test_a_job_has_the_family_s_defaults() -> None:
    job = Job("app.Worker")

    assert (job.state, job.queue, job.attempt, job.max_attempts, job.priority) == ("available", "default", 0, 20, 0)
    assert (job.args, job.meta, job.errors, job.tags, job.attempted_by, job.extra) == ({}, {}, [], [], [], {})
    assert (job.id, job.inserted_at, job.scheduled_at, job.attempted_at) == (None, None, None, None)


def test_defaults_are_not_shared_between_jobs() -> None:
    one, other = Job("w"), Job("w")
    one.args["x"] = one.meta["x"] = one.extra["x"] = 1
    one.errors.append({"at": "now"})

    assert (other.args, other.meta, other.extra, other.errors) == ({}, {}, {}, [])
    assert len(one.errors) == 1


def test_tags_are_stripped_lowered_sorted_and_said_once() -> None:
    assert Job("w", tags=[" Mail", "mail", "", "  ", "ALPHA", 3]).tags == ["3", "alpha", "mail"]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": ""}, "queue must not be blank"),
        ({"queue": " \t"}, "queue must not be blank"),
        ({"worker": ""}, "worker must not be blank"),
        ({"worker": " "}, "worker must not be blank"),
        ({"max_attempts": 0}, "max_attempts must be greater than 0"),
        ({"max_attempts": -1}, "max_attempts must be greater than 0"),
        ({"priority": 10}, "priority must be between 0 and 9"),
        ({"priority": -1}, "priority must be between 0 and 9"),
        ({"queue": "q" * 128}, "queue must be at most 127 characters"),
        ({"worker": "w" * 128}, "worker must be at most 127 characters"),
        ({"queue": None}, "queue must be a string"),
        ({"worker": 5}, "worker must be a string"),
        ({"queue": "a\0b"}, "queue must not contain NUL"),
        ({"worker": "a\0b"}, "worker must not contain NUL"),
        ({"tags": ["a\0b"]}, "tags must not contain NUL"),
        ({"tags": "mail"}, "tags must be a list of strings, got 'mail'"),
        ({"tags": 5}, "tags must be a list of strings"),
        ({"priority": True}, "priority must be a whole number, got True"),
        ({"priority": "1"}, "priority must be a whole number, got '1'"),
        ({"priority": 1.0}, "priority must be a whole number"),
        ({"max_attempts": "3"}, "max_attempts must be a whole number"),
        ({"max_attempts": 2**31}, "max_attempts must be at most 2147483647"),
        ({"attempt": -1}, "attempt must be between 0 and max_attempts"),
        ({"attempt": 4, "max_attempts": 3}, r"attempt must be between 0 and max_attempts \(3\), got 4"),
        ({"args": [1]}, "args must be a dict, got list"),
        ({"args": "x"}, "args must be a dict, got str"),
        ({"meta": 1}, "meta must be a dict, got int"),
        ({"errors": "boom"}, "errors must be a list"),
        ({"attempted_by": "node"}, "attempted_by must be a list"),
        ({"state": "schedulde"}, "did you mean 'scheduled'"),
        ({"state": None}, "state must be one of"),
        ({"id": 0}, "id must be a positive whole number"),
        ({"id": 2**63}, "id must be a positive whole number"),
        ({"scheduled_at": "tomorrow"}, "scheduled_at must be a datetime, got 'tomorrow'"),
        ({"schedule_in": 1, "scheduled_in": 2}, "schedule_in and scheduled_in mean the same"),
    ],
)
def test_values_no_runner_could_use_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words) as refused:
        Job(**{"worker": "app.Worker", **options})
    assert isinstance(refused.value, ValueError)


def test_names_of_127_characters_are_accepted() -> None:
    job = Job("w" * 127, queue="ü" * 127)
    assert (len(job.worker), len(job.queue)) == (127, 127)


@pytest.mark.parametrize("period", [60, 60.0, timedelta(minutes=1), "1 minute"])
@pytest.mark.parametrize("word", ["schedule_in", "scheduled_in"])
def test_a_span_becomes_a_moment_and_the_job_is_scheduled(word: str, period: Any) -> None:
    before = datetime.now(UTC)
    job = Job("w", **{word: period})

    assert before + timedelta(minutes=1) <= job.scheduled_at <= datetime.now(UTC) + timedelta(minutes=1)
    assert job.state is JobState.SCHEDULED


def test_a_span_that_is_none_is_refused_as_what_it_is() -> None:
    with pytest.raises(InvalidPeriod):
        Job("w", schedule_in=-1)


def test_an_explicit_state_is_kept_whatever_the_schedule() -> None:
    assert Job("w", schedule_in=60, state=JobState.SUSPENDED).state is JobState.SUSPENDED
    assert Job("w", state="retryable").state is JobState.RETRYABLE  # type: ignore[arg-type]


def test_moments_come_out_aware_and_in_utc() -> None:
    with pytest.warns(NaiveMoment):
        naive = Job("w", scheduled_at=datetime(2030, 1, 2, 12))
    elsewhere = Job("w", scheduled_at=datetime(2030, 1, 2, 17, tzinfo=timezone(timedelta(hours=5))))

    assert naive.scheduled_at == elsewhere.scheduled_at == NOON
    assert naive.scheduled_at.tzinfo is UTC
    assert elsewhere.scheduled_at.tzinfo is UTC


def test_update_changes_in_place_and_returns_the_job() -> None:
    job = Job("w")

    assert job.update({"args": {"a": 1}, "priority": 3, "queue": "slow", "tags": ["B", "a"], "worker": "v"}) is job
    assert (job.args, job.priority, job.queue, job.tags, job.worker) == ({"a": 1}, 3, "slow", ["a", "b"], "v")
    assert job.update({"schedule_in": "1 hour"}).state is JobState.SCHEDULED
    assert job.update({"scheduled_at": datetime(2030, 1, 2, 12, tzinfo=UTC)}).scheduled_at == NOON


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"priority": 10}, "priority must be between 0 and 9"),
        ({"queue": " "}, "queue must not be blank"),
        ({"max_attempts": 1}, "attempt must be between 0 and max_attempts"),
        ({"state": "completed"}, "'state' can't be updated"),
        ({"prioritty": 1}, "did you mean 'priority'"),
    ],
)
def test_an_update_that_is_refused_changes_nothing(changes: dict[str, Any], words: str) -> None:
    job = Job("w", attempt=2)

    with pytest.raises(InvalidJob, match=words):
        job.update({"tags": ["new"], **changes})
    assert (job.tags, job.priority, job.queue, job.max_attempts) == ([], 0, "default", 20)


def test_an_update_leaves_the_caller_s_dict_alone() -> None:
    changes = {"schedule_in": 5}
    Job("w").update(changes)
    assert changes == {"schedule_in": 5}


def test_a_job_reads_well() -> None:
    job = Job("app.mail.SendWelcome", args={"user_id": 1}, queue="mailers", id=1)

    assert str(job) == 'Job(id=1, worker=SendWelcome, args={"user_id":1}, queue=mailers, state=available)'
    assert repr(job) == "<Job id=1 worker=app.mail.SendWelcome queue=mailers state=available attempt=0>"


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ({"user": ref(object(), "email")}, "ref(<object>, 'email')"),
        ({"value": {1, 2}}, "{1, 2}"),
        ({1: 2}, "{1: 2}"),
        ({"big": 2**70}, str(2**70)),
    ],
)
def test_args_that_are_not_json_yet_can_be_shown(args: dict[str, Any], shown: str) -> None:
    assert shown in str(Job("w", args=args))


def test_cancelling_is_seen_by_other_threads_and_only_by_this_job() -> None:
    job, other = Job.from_row(row()), Job.from_row(row())
    seen: list[bool] = [job.cancelled()]
    thread = threading.Thread(target=lambda: (job.request_cancel(), seen.append(job.cancelled())))
    thread.start()
    thread.join()

    assert seen == [False, True]
    assert job.cancelled()
    assert not other.cancelled()


def test_a_recorded_value_is_decoded() -> None:
    assert Job("w", meta={"recorded": True, "return": erlang.encode({"sent": [1, 2]})}).recorded() == {"sent": [1, 2]}
    assert Job("w").recorded() is None
    assert Job("w", meta={"return": "nothing"}).recorded() is None


def test_hooks_see_what_the_constructor_makes_and_not_what_is_loaded() -> None:
    seen: list[Job] = []
    remove = hooks.after_new(seen.append)
    try:
        job = Job("w", tags=["B", "a"])
        Job.from_row(row())
        with pytest.raises(InvalidJob):
            Job("")
    finally:
        remove()
    Job("later")

    assert seen == [job]
    assert seen[0].tags == ["a", "b"]


def test_a_row_becomes_a_detached_job_with_every_column() -> None:
    job = Job.from_row(row())
    state = inspect(job)

    assert state.detached
    assert not state.expired_attributes
    assert not state.unloaded
    assert not state.modified
    assert (job.id, job.state, job.args) == (7, JobState.EXECUTING, {"user_id": 1})
    assert isinstance(job.state, JobState)
    assert job.scheduled_at == NOON
    assert job.scheduled_at.tzinfo is UTC
    assert job.cancelled_at is None
    assert job.extra == {}


def test_a_row_of_another_oban_may_hold_nulls_and_either_kind_of_errors() -> None:
    entry = '{"at": "2030-01-02T12:00:00Z", "attempt": 1, "error": "boom"}'
    job = Job.from_row(row(meta=None, tags=None, attempted_by=None, errors=[entry], args='{"a": 1}'))
    assert (job.meta, job.tags, job.attempted_by, job.args) == ({}, [], [], {"a": 1})
    assert job.errors[0]["error"] == "boom"

    assert Job.from_row(row(errors=f"[{entry}]")).errors == job.errors
    assert Job.from_row(row(errors=None)).errors == []


def test_a_row_is_loaded_without_validation() -> None:
    assert Job.from_row(row(priority=100, worker="", queue="q" * 200)).priority == 100


def test_a_loaded_job_can_be_changed_by_a_session() -> None:
    job = Job.from_row(row())
    session = Session()
    session.add(job)
    job.priority = 5

    assert job in session
    assert inspect(job).persistent
    assert inspect(job).attrs.priority.history.deleted == [0]
    session.expunge_all()


def test_a_job_survives_the_way_to_another_process() -> None:
    job = Job.from_row(row())
    job.request_cancel()
    job.extra["k"] = "v"
    copy = pickle.loads(pickle.dumps(job))

    assert (copy.id, copy.args, copy.state, copy.scheduled_at) == (7, {"user_id": 1}, JobState.EXECUTING, NOON)
    assert copy.cancelled()
    assert copy.extra == {"k": "v"}
    assert inspect(copy).detached


def of_pattern() -> tuple[Job, Job]:
    """A job made of a pattern, and the same by the constructor."""
    options: dict[str, Any] = {
        "queue": "mail",
        "max_attempts": 3,
        "priority": 1,
        "tags": ["B", "a"],
        "meta": {"x": [1]},
    }
    return Job.from_pattern(Pattern.of("w", **options), {"y": 2}), Job("w", args={"y": 2}, **options)


def test_a_job_made_of_a_pattern_is_what_the_constructor_makes() -> None:
    made, constructed = of_pattern()

    assert {**vars(made), "_sa_instance_state": None} == {**vars(constructed), "_sa_instance_state": None}
    assert list(vars(made)) == list(vars(constructed))
    assert inspect(made).transient
    assert made.errors == []


def test_jobs_of_a_pattern_share_nothing_that_can_be_changed() -> None:
    pattern = Pattern.of("w", tags=["a"], meta={"x": [1]})
    one, other = Job.from_pattern(pattern, {}), Job.from_pattern(pattern, {})
    one.tags.append("b")
    one.meta["x"].append(2)
    one.attempted_by.append("c")

    assert (other.tags, other.meta, other.attempted_by) == (["a"], {"x": [1]}, [])


@pytest.mark.parametrize("options", [{"queue": ""}, {"priority": 10}, {"max_attempts": 0}, {"tags": "x"}, {"meta": 1}])
def test_a_pattern_refuses_what_the_constructor_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob) as refused:
        Pattern.of("w", **options)
    with pytest.raises(InvalidJob) as refused_too:
        Job("w", **options)
    assert str(refused.value) == str(refused_too.value)


def test_hooks_and_sqlalchemy_s_own_event_see_jobs_of_a_pattern() -> None:
    seen: list[Job] = []
    remove = hooks.after_new(seen.append)
    try:
        made, constructed = of_pattern()
    finally:
        remove()
    assert seen == [made, constructed]

    told: list[Any] = []

    def listen(target: Job, args: Any, kwargs: Any) -> None:
        told.append(target)

    event.listen(Job, "init", listen)
    try:
        made, constructed = of_pattern()
    finally:
        event.remove(Job, "init", listen)
    assert told == [made, constructed]
    assert vars(made).keys() == vars(constructed).keys()


def test_names_are_remembered_only_as_text() -> None:
    class Name(str):
        __slots__ = ()

    assert Job("w", queue="seen").queue == "seen"
    assert type(Job("w", queue=Name("seen")).queue) is str
    for number in range(3_000):
        assert Job("w", queue=f"q{number}").queue == f"q{number}"
    assert len(validation._names) <= 1_000


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("queue", " ", "queue must not be blank"),
        ("worker", "", "worker must not be blank"),
        ("tags", "abc", "tags must be a list of strings"),
        ("priority", 99, "priority must be between 0 and 9"),
        ("max_attempts", 0, "max_attempts must be greater than 0"),
        ("state", "done", "state must be one of"),
        ("args", [1], "args must be a dict"),
        ("meta", "x", "meta must be a dict"),
        ("attempted_by", "node", "attempted_by must be a list of strings"),
        ("scheduled_at", "tomorrow", "scheduled_at must be a datetime"),
        ("completed_at", 1, "completed_at must be a datetime"),
    ],
)
def test_what_is_assigned_is_refused_as_the_constructor_refuses_it(attribute: str, value: Any, words: str) -> None:
    job = Job("w")
    before = getattr(job, attribute)
    with pytest.raises(InvalidJob, match=words):
        setattr(job, attribute, value)
    assert getattr(job, attribute) == before


def test_what_is_assigned_is_stored_as_the_constructor_stores_it() -> None:
    job = Job("w")
    job.tags = (" B ", "a", "a", 0, False, None, "")  # type: ignore[assignment]
    job.state = "suspended"  # type: ignore[assignment]
    job.scheduled_at = datetime(2030, 1, 2, 17, tzinfo=timezone(timedelta(hours=5)))
    assert (job.tags, job.state, job.scheduled_at.tzinfo) == (["a", "b"], JobState.SUSPENDED, UTC)
    assert Job("w", tags=["", 0, False, " ", "x"]).tags == ["x"]  # type: ignore[list-item]
    expression = Job.priority + 1
    job.priority = expression  # type: ignore[assignment]
    assert job.priority is expression


def test_an_update_looks_at_the_whole_job() -> None:
    job = Job.from_row(row(priority=100))
    with pytest.raises(InvalidJob, match="priority must be between 0 and 9, got 100"):
        job.update({"queue": "slow"})
    assert job.queue == "mailers"
    assert job.update({"queue": "slow", "priority": 9}).queue == "slow"
    job = Job("w", tags=["a"])
    job.tags.append(" B ")
    assert job.update({"priority": 1}).tags == ["a", "b"]


def test_a_row_that_lacks_columns_is_read_as_a_new_job() -> None:
    job = Job.from_row({"id": 7, "worker": "app.W", "queue": "mailers"})
    assert (job.id, job.worker, job.queue, job.state) == (7, "app.W", "mailers", JobState.AVAILABLE)
    assert (job.attempt, job.max_attempts, job.priority) == (0, 20, 0)
    assert (job.args, job.meta, job.errors, job.tags, job.attempted_by) == ({}, {}, [], [], [])
    assert (job.inserted_at, job.scheduled_at, job.completed_at) == (None, None, None)
    assert inspect(Job.from_row({"worker": "w"})).transient
    with pytest.raises(KeyError, match="worker"):
        Job.from_row({"id": 7})


@pytest.mark.parametrize(
    "write",
    [
        lambda at: Job("w", scheduled_at=at),
        lambda at: Job("w").update({"scheduled_at": at}),
        lambda at: setattr(Job("w"), "scheduled_at", at),
        lambda at: send.options(scheduled_at=at).new(),
        lambda at: Send.new(scheduled_at=at),
        lambda at: in_a_session(lambda session: Send.enqueue(session, scheduled_at=at)),
    ],
)
def test_a_naive_schedule_is_warned_of_at_the_line_that_writes_it(write: Callable[[datetime], Any]) -> None:
    words = (
        r"scheduled_at=datetime.datetime\(2030, 1, 2, 12, 0\) has no time zone and is taken as UTC; write .*now\(UTC\)"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NaiveMoment)
        write(datetime(2030, 1, 2, 12))
    (one,) = [each for each in told if each.category is NaiveMoment]
    assert re.match(words, str(one.message))
    assert (one.filename, one.lineno) == (__file__, write.__code__.co_firstlineno)


def in_a_session(work: Callable[[Session], object]) -> None:
    with Session() as session:
        work(session)
        session.rollback()


def test_other_moments_may_be_naive_as_rows_have_them() -> None:
    assert Job("w", inserted_at=datetime(2030, 1, 2, 12)).inserted_at == NOON


@worker(registry=Registry(), name="test_job.Send")
class Send(Worker[None]):
    def process(self) -> None: ...


@job_(registry=Registry(), name="test_job.send")
def send() -> None: ...
