"""A member is called with what another one will have recorded, which is checked where the workflow is built."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from oban_sa import Batch, Cancel, Job, Record, Result, Workflow
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption
from oban_sa.testing import perform_job
from oban_sa.workers import Registry, job, worker

REGISTRY = Registry()


@job(registry=REGISTRY)
async def extract(source: str) -> Record[list[int]]:
    return Record([1, 2, len(source)])


@job(registry=REGISTRY, record=True)
def add_up(rows: list[int], *, into: str = "here", **more: int) -> int:
    return sum(rows) + sum(more.values())


@job(registry=REGISTRY)
def silent(number: int) -> int:
    return number


@job(registry=REGISTRY)
def unsaid(number):  # type: ignore[no-untyped-def]
    return Record(number)


@job(registry=REGISTRY)
async def perhaps(number: int) -> Result[int]:
    return Record(number)


def test_a_result_is_an_argument_and_a_dependency() -> None:
    flow = Workflow()
    rows = flow.call("extract", extract, "crm")
    total = flow.call("total", add_up.options(queue="sums"), rows.result, into="crm")
    assert total.waits == {"extract": 0}
    assert total.job.args == {"into": "crm"}
    assert total.job.meta == {"workflow_results": {"rows": "extract"}}
    assert total.job.queue == "sums"
    assert [member.waiting for member in flow.tree().members] == [0, 1]


def test_several_results_are_taken_by_name_and_among_further_keywords() -> None:
    flow = Workflow()
    one, two = flow.call("one", extract, "a"), flow.call("two", add_up, [1])
    both = flow.call("both", add_up, one.result, extra=two.result, other=3)
    assert both.job.meta["workflow_results"] == {"rows": "one", "extra": "two"}
    assert both.job.args == {"into": "here", "other": 3}
    assert both.waits == {"one": 0, "two": 0}


def test_other_arguments_are_checked_as_ever() -> None:
    flow = Workflow()
    rows = flow.call("extract", extract, "crm")
    with pytest.raises(TypeError, match="missing a required argument: 'rows'"):
        flow.call("a", add_up)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments, match="into"):
        flow.call("b", add_up, rows.result, into=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments):  # only a whole argument can be a result
        flow.call("c", add_up, [rows.result])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="too many positional arguments"):
        flow.call("d", add_up, rows.result, rows.result)  # type: ignore[call-arg, misc]
    assert list(flow.parts) == ["extract"]


def test_a_result_of_code_that_records_nothing_is_refused() -> None:
    flow = Workflow()
    member = flow.call("silent", silent, 1)
    with pytest.raises(InvalidJob, match=r"silent\(\) of 'silent' records nothing .* decorate it with record=True"):
        _ = member.result
    for name, function in (("unsaid", unsaid), ("perhaps", perhaps)):
        assert repr(flow.call(name, function, 1).result) == f"<result of {name!r}>"


def test_a_result_of_another_workflow_is_refused() -> None:
    other = Workflow()
    rows = other.call("extract", extract, "crm")
    with pytest.raises(InvalidJob, match="which is in another workflow"):
        Workflow().call("total", add_up, rows.result)


def test_a_job_in_place_of_a_function_is_refused_with_what_takes_it() -> None:
    @job(registry=Registry())
    async def fetch(source: str) -> None: ...

    wrong: Any = fetch.new("crm")
    with pytest.raises(InvalidJob, match=r"takes a @job function and its arguments; for a job write add\(name, job\)"):
        Workflow("nightly").call("fetch", wrong)


def test_a_member_in_place_of_its_result_is_refused_with_what_to_write() -> None:
    flow = Workflow()
    member = flow.add("first", Job("w"))
    with pytest.raises(InvalidArguments, match=r"<Member 'first'> is part of a workflow, .* write \.result for"):
        flow.call("second", add_up, member, into="x")


def test_what_is_no_job_is_answered_with_how_a_member_is_made() -> None:
    for add in (lambda: Workflow().add("a", add_up), lambda: Batch([add_up])):
        with pytest.raises(TypeError, match=r"write add_up\.new\(\.\.\.\)"):
            add()


def test_only_functions_are_called() -> None:
    @worker(registry=REGISTRY)
    class Process:
        def process(self) -> None: ...

    with pytest.raises(InvalidOption, match=r"belongs to a class, which is not called; make a job of it: \.new"):
        Workflow().call("a", Process)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="is not decorated with @job"):
        Workflow().call("a", len, [1])  # type: ignore[call-overload]


@pytest.mark.parametrize("executor", ["loop", "thread"])
def test_what_a_recording_worker_returns_is_recorded(executor: Any) -> None:
    registry = Registry()

    if executor == "loop":

        @job(registry=registry, record=True)
        async def work(answer: Any) -> Any:
            return Cancel("enough") if answer == "cancel" else answer

    else:

        @job(registry=registry, record=True)
        def work(answer: Any) -> Any:
            return Cancel("enough") if answer == "cancel" else answer

    assert perform_job(work, {"answer": {"a": [1]}}) == Record({"a": [1]})
    assert perform_job(work, {"answer": None}) == Record(None)
    assert perform_job(work, {"answer": "cancel"}) == Cancel("enough")


def test_a_class_records_too_and_typed_values_become_json() -> None:
    registry = Registry()

    @worker(registry=registry, record=True)
    class Tell:
        async def process(self) -> object:
            return {"set": {1}}

    assert perform_job(Tell) == Record({"set": [1]})
    with pytest.raises(InvalidOption, match="record is True or False"):

        @job(registry=registry, record="yes")  # type: ignore[call-overload]
        def work() -> None: ...


def test_what_can_not_be_recorded_fails_with_its_place() -> None:
    @job(registry=Registry(), record=True)
    def work() -> object:
        return {"a": [object()]}

    with pytest.raises(InvalidArguments, match=r"the recorded value\.a\[0\]"):
        perform_job(work)


def test_a_member_is_performed_with_given_results() -> None:
    flow = Workflow()
    rows = flow.call("extract", extract, "crm")
    total = flow.call("total", add_up, rows.result, into="crm")
    assert perform_job(total.job, registry=REGISTRY, deps={"extract": [1, 2]}) == Record(3)
    with pytest.raises(InvalidArguments, match="rows"):
        perform_job(total.job, registry=REGISTRY, deps={"extract": ["x"]})
    with pytest.raises(LookupError, match="waited for nothing that is named 'extract'"):
        perform_job(total.job, registry=REGISTRY, deps={})
    assert asyncio.run(perform_later(total.job)) == Record(7)


async def perform_later(given: Any) -> object:
    return await perform_job(given, registry=REGISTRY, deps={"extract": [7]})


@pytest.mark.parametrize("use", [bool, str, list, len, lambda it: it[0], lambda it: f"{it}", lambda it: 1 in it])
def test_a_result_has_no_value_where_the_workflow_is_built(use: Any) -> None:
    rows = Workflow().call("extract", extract, "crm").result
    with pytest.raises(
        InvalidJob, match=r"the result of 'extract' has a value only once that has run; give it to flow"
    ):
        use(rows)


def test_a_result_in_another_argument_is_refused_with_where_it_goes() -> None:
    flow = Workflow()
    rows = flow.call("extract", extract, "crm").result
    words = r"is a MemberResult, which JSON can't hold; give it to flow.call\(...\) as an argument of its own"
    for refused in (lambda: flow.call("total", add_up, [rows]), lambda: flow.add("total", add_up.new(rows))):  # type: ignore[list-item]
        with pytest.raises(InvalidArguments, match=words):
            refused()


def test_options_of_add_are_no_arguments_of_a_call() -> None:
    flow = Workflow()
    flow.call("extract", extract, "crm")
    words = r"extract\(\) takes no deps=; .* write add\(name, function.new\(...\), deps=...\)"
    with pytest.raises(TypeError, match=words):
        flow.call("again", extract, "crm", deps="extract")  # type: ignore[call-arg]
    assert flow.call("more", add_up, [1], deps=7).job.args == {"rows": [1], "into": "here", "deps": 7}
