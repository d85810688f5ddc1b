"""A workflow is checked where it is built, drawn without a database, and made into rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from oban_sa import Batch, Job, Workflow, chain, enqueue
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs.flow import LANES, lane_of, new_id
from oban_sa.outbox.flow_rows import MemberRow
from oban_sa.workers import Registry, job


def new(**options: Any) -> Job:
    return Job("shop.work", **options)


def rows(flow: Workflow) -> dict[str, MemberRow]:
    return {member.name: member for member in flow.tree().members}


def waits_for(flow: Workflow) -> dict[str, set[str]]:
    """By the name of a member, the names of the members and flows that it waits for."""
    tree = flow.tree()
    jobs = {member.job: member.name for member in tree.members}
    flows = {each.id: each.name or "" for each in tree.flows}
    return {
        member.name: {jobs[each] for each in member.parents} | {flows[each] for each in member.gates}
        for member in tree.members
    }


def test_members_wait_for_what_they_name() -> None:
    flow = Workflow("nightly")
    extract = flow.add("extract", new())
    flow.add("total", new(), deps=extract)
    flow.add("mail", new(), deps=["total", extract, "total"])
    assert waits_for(flow) == {"extract": set(), "total": {"extract"}, "mail": {"total", "extract"}}
    assert [member.waiting for member in flow.tree().members] == [0, 1, 2]


def test_a_name_may_be_waited_for_before_it_is_added() -> None:
    flow = Workflow()
    flow.add("late", new(), deps="early")
    flow.add("early", new())
    assert waits_for(flow) == {"late": {"early"}, "early": set()}


def test_meta_has_the_keys_of_the_family_and_the_lane() -> None:
    flow = Workflow("nightly")
    flow.add("extract", new())
    flow.add("mail", new(), deps="extract")
    assert rows(flow)["mail"].meta == {
        "workflow": True,
        "workflow_id": str(flow.id),
        "workflow_name": "nightly",
        "name": "mail",
        "deps": ["extract"],
        "workflow_reads": True,
        "lane": lane_of(flow.id),
    }


def test_at_most_100_dependencies_are_listed_in_meta() -> None:
    flow = Workflow()
    names = [str(number) for number in range(150)]
    for name in names:
        flow.add(name, new())
    flow.add("all", new(), deps=names)
    member = rows(flow)["all"]
    assert len(member.parents) == 150
    assert member.meta["deps"] == names[:100]


def test_a_group_is_waited_for_by_one_gate() -> None:
    flow = Workflow()
    flow.add("list", new())
    thumbs = flow.add_many("thumbs", (new() for _ in range(3)), deps="list")
    flow.add("zip", new(), deps=thumbs)
    found = waits_for(flow)
    assert found["thumbs/2"] == {"list"}
    assert found["zip"] == {"thumbs"}
    assert {each.name: each.total for each in flow.tree().flows} == {None: 5, "thumbs": 3}


def test_what_waits_for_an_empty_group_waits_for_what_the_group_was_to_wait_for() -> None:
    flow = Workflow()
    flow.add("list", new())
    flow.add_many("thumbs", [], deps="list")
    flow.add("zip", new(), deps="thumbs")
    assert waits_for(flow)["zip"] == {"thumbs", "list"}


def test_a_workflow_inside_waits_as_a_whole_and_is_waited_for_as_a_whole() -> None:
    inner = chain(new(), new())
    flow = Workflow("outer")
    flow.add("first", new())
    flow.add_workflow("import", inner, deps="first")
    flow.add("last", new(), deps="import")
    assert waits_for(flow) == {"first": set(), "1": {"first"}, "2": {"1"}, "last": {"import"}}
    meta = rows(flow)["2"].meta
    assert (meta["sup_workflow_id"], meta["sub_name"], meta["workflow_id"]) == (str(flow.id), "import", str(inner.id))
    assert rows(flow)["last"].meta["deps"] == [[str(inner.id), "*"]]
    assert meta["lane"] == lane_of(flow.id)


def test_a_member_that_forgives_still_waits_for_what_stands_before_its_workflow() -> None:
    inner = Workflow()
    inner.add("a", new())
    inner.add("b", new(), deps="a", forgive="all")
    flow = Workflow()
    flow.add("first", new())
    flow.add_workflow("inner", inner, deps="first")
    assert waits_for(flow)["b"] == {"a", "first"}


def test_what_is_forgiven_is_said_for_all_dependencies_or_for_each() -> None:
    flow = Workflow()
    a, b = flow.add("a", new()), flow.add("b", new())
    flow.add("c", new(), deps=[a, b], forgive=["cancelled", "deleted"])
    flow.add("d", new(), deps=[a, b], forgive={"a": "discarded"})
    found = rows(flow)
    assert list(found["c"].parents.values()) == [5, 5]
    assert found["d"].parents == {a.job: 2, b.job: 0}


def test_a_chain_is_a_workflow_in_a_row() -> None:
    assert waits_for(chain(new(), new(), new())) == {"1": set(), "2": {"1"}, "3": {"2"}}


def test_a_call_is_a_member() -> None:
    @job(registry=Registry(), queue="etl")
    def extract(source: str) -> None: ...

    flow = Workflow()
    assert flow.call("extract", extract, "crm").job.args == {"source": "crm"}
    assert flow.call("again", extract.options(queue="slow"), source="crm").job.queue == "slow"
    with pytest.raises(TypeError):
        flow.call("wrong", extract, target="crm")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda flow: flow.add("", new()), "the name of a member is a text that is not empty, not ''"),
        (lambda flow: flow.add("x" * 256, new()), "has at most 255 characters"),
        (lambda flow: flow.add("a", new()), "has a part 'a' already; each name stands once"),
        (lambda flow: flow.add("b", new(), deps="aa"), r"'b' waits for 'aa', which is no part .*did you mean 'a'\?"),
        (lambda flow: flow.add("b", new(), deps=[7]), "deps of 'b' are names, or what add"),
        (lambda flow: flow.add("b", new(), deps=None), "deps of 'b' are names, .* and this is a NoneType: None"),
        (lambda flow: flow.add("b", new(), deps=new()), "deps of 'b' are names, .* and this is a Job"),
        (lambda flow: flow.add("b", new(), deps=Workflow()), "deps of 'b' are names, .* and this is a Workflow"),
        (lambda flow: flow.add("b", new(), deps={"a": "all"}), "deps of 'b' are names, .* and this is a dict"),
        (lambda flow: flow.add(new(), "b"), "the name of a member is a text that is not empty, not <Job"),
        (lambda flow: flow.add("\ud800", new()), "no lone surrogate"),
        (lambda flow: flow.add_many("b", new()), r"add_many takes several jobs; for one write add\(name, job\)"),
        (lambda flow: flow.add_many("b", None), "add_many takes a list of jobs, and this is a NoneType: None"),
        (lambda flow: flow.add_many("b", several_later()), r"add_many can't await; write \[job async for job in jobs"),
        (lambda flow: setattr(flow, "unique", "yes"), "unique of a workflow is True or False, not 'yes'"),
        (lambda flow: later(flow, "context", {"tenant": 7}), "has a context of its own"),
        (lambda flow: later(flow, "unique", True), "<Workflow 'inner'> is unique, and one inside of another can't be"),
        (lambda flow: flow.add("b", new(), deps="b"), "has a cycle, in which each waits for the one before: b -> b"),
        (lambda flow: flow.add("b", new(), deps=Workflow().add("z", new())), "which is in another workflow"),
        (lambda flow: flow.add("b", new(), deps="a", forgive={"c": "all"}), "names 'c', which it does not wait for"),
        (lambda flow: flow.add("b", new(unique=True)), "the job of 'b' is unique, and a member can't be"),
        (lambda flow: flow.add_many("b", [new(unique=True)]), "the job of 'b/0' is unique, and a member can't be"),
        (lambda flow: flow.add_workflow("b", Workflow()), "has no members"),
        (lambda flow: flow.add_workflow("b", flow), "is part of a workflow already"),
        (lambda flow: flow.add_workflow("b", chain(new(), name="x").__class__("x", unique=True)), "is unique"),
        (lambda flow: flow.add_workflow("b", Workflow(context={})), "has a context of its own"),
        (lambda flow: flow.add_workflow("b", new()), "add_workflow takes a Workflow, and this is a Job"),
    ],
)
def test_a_mistake_is_refused_with_words(build: Any, message: str) -> None:
    flow = Workflow("nightly")
    flow.add("a", new())
    with pytest.raises(InvalidJob, match=message):
        build(flow)
        flow.check()


def later(flow: Workflow, what: str, value: object) -> None:
    inner = chain(new(), name="inner")
    flow.add_workflow("b", inner)
    setattr(inner, what, value)


async def several_later() -> AsyncIterator[Job]:
    yield new()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (chain(new()), r"this is a Workflow; for a workflow in another one write flow.add_workflow\(name, workflow\)"),
        ([new()], r"this is a list; for several in a workflow write flow.add_many\(name, jobs\)"),
        (None, "this is a NoneType; make one with the worker it is for"),
    ],
)
def test_what_is_no_job_is_answered_with_what_takes_it(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Workflow().add("a", given)


def test_what_is_forgiven_may_be_said_by_what_add_returned() -> None:
    flow = Workflow()
    a, group = flow.add("a", new()), flow.add_many("many", [new()])
    flow.add("b", new(), deps=[a, group], forgive={a: "deleted", group: ["cancelled", "discarded"]})
    assert flow.parts["b"].waits == {"a": 4, "many": 3}


@pytest.mark.parametrize("given", [None, 3, True, [["all"]], {"a": None}, {"a": "canceled"}])
def test_what_can_not_be_forgiven_is_refused_whatever_it_is(given: Any) -> None:
    flow = Workflow()
    flow.add("a", new())
    with pytest.raises(InvalidOption, match=r"is unknown.*rite one of cancelled, discarded, deleted, all, or a list"):
        flow.add("b", new(), deps="a", forgive=given)


def test_a_long_cycle_is_named() -> None:
    flow = Workflow()
    for name, before in (("a", "c"), ("b", "a"), ("c", "b")):
        flow.add(name, new(), deps=before)
    with pytest.raises(InvalidJob, match=r"(a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"):
        flow.check()


def test_the_same_job_twice_is_refused() -> None:
    flow, twice = Workflow(), new()
    flow.add("a", twice)
    flow.add("b", twice)
    with pytest.raises(InvalidJob, match="the same Job stands twice"):
        flow.tree()


def test_a_word_that_can_not_be_forgiven_is_refused() -> None:
    flow = Workflow()
    with pytest.raises(InvalidOption, match=r"forgive='canceled' is unknown; did you mean 'cancelled'\?"):
        flow.add("a", new(), forgive="canceled")  # type: ignore[arg-type]


def test_what_is_no_job_is_refused_where_it_is_added() -> None:
    with pytest.raises(TypeError, match="a Job is enqueued"):
        Workflow().add("a", "job")  # type: ignore[arg-type]
    with pytest.raises(InvalidJob, match="a unique workflow needs a name"):
        Workflow(unique=True)
    for other in (chain(new()), Batch([new()]), [new()]):
        with pytest.raises(TypeError, match=r"add_workflow\(name, workflow\)|add_many\(name, jobs\)"):
            Workflow().add("a", other)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"chain takes jobs one by one, as chain\(a, b\), and this is a"):
            chain(new(), other)  # type: ignore[arg-type]


def test_what_is_added_to_an_enqueued_workflow_is_refused_until_that_is_rolled_back(sync_engine: Engine) -> None:
    inner, flow = Workflow(), Workflow("nightly")
    inner.add("x", new())
    flow.add_workflow("inner", inner)
    with Session(sync_engine) as session:
        enqueue(session, flow)
        for each in (flow, inner):
            with pytest.raises(InvalidJob, match="was enqueued already, and 'late' would not be written with it"):
                each.add("late", new())
        session.flush()
        session.rollback()
        flow.add("late", new())
        enqueue(session, flow)
        session.commit()
    with pytest.raises(InvalidJob, match="was enqueued already"):
        flow.add_many("later", [])
    with sync_engine.connect() as connection:
        assert connection.scalar(text("SELECT total FROM oban_sa_flows WHERE name = 'nightly'")) == 2


def test_a_workflow_inside_of_another_is_not_enqueued_by_itself() -> None:
    flow, inner = Workflow("outer"), chain(new())
    flow.add_workflow("inner", inner)
    with pytest.raises(InvalidJob, match=r"is part of <Workflow 'outer'>; enqueue that one"):
        inner.tree()


def test_a_workflow_is_drawn() -> None:
    flow = Workflow()
    flow.add("list", new())
    flow.add_many("thumbs", [new(), new()], deps="list")
    inner = Workflow()
    inner.add('say "hi"', new())
    flow.add_workflow("import", inner, deps="thumbs", forgive=("cancelled", "discarded"))
    assert flow.mermaid() == (
        "flowchart TD\n"
        '    n0["list"]\n'
        '    n1[["thumbs (2)"]]\n'
        '    subgraph n2["import"]\n'
        '        n2_0["say #34;hi#34;"]\n'
        "    end\n"
        "    n0 --> n1\n"
        "    n1 -. cancelled or discarded .-> n2\n"
    )


def test_a_workflow_is_an_image() -> None:
    flow = Workflow()
    flow.add("list <all> & \x01", new())
    flow.add_many("thumbs", [new(), new()], deps="list <all> & \x01")
    flow.add("other", new())
    flow.add_workflow("import", chain(new(), new()), deps="thumbs", forgive="all")
    flow.graft("pages", by="other")
    image = ET.fromstring(flow.svg())
    space = "{http://www.w3.org/2000/svg}"
    places = {text.text: float(text.attrib["x"]) for text in image.iter(f"{space}text")}
    assert list(places) == ["list <all> &  ", "other", "thumbs (2)", "pages (graft)", "import (workflow of 2)"]
    assert places["list <all> &  "] == places["other"] < places["thumbs (2)"] < places["import (workflow of 2)"]
    lines = [path for path in image.iter(f"{space}path") if "marker-end" in path.attrib]
    assert ["stroke-dasharray" in path.attrib for path in lines] == [False, True, False]


def test_ids_are_of_version_7_and_all_lanes_are_used() -> None:
    ids = [new_id() for _ in range(500)]
    assert {(each.version, each.variant) for each in ids} == {(7, "specified in RFC 4122")}
    assert {lane_of(each) for each in ids} == set(range(LANES))
    assert ids[0].int >> 80 <= ids[-1].int >> 80


class Walked(dict[str, Any]):
    """The parts of a workflow, and how often all of them were gone through."""

    walks = 0

    def __iter__(self) -> Any:
        self.walks += 1
        return super().__iter__()

    def keys(self) -> Any:
        self.walks += 1
        return super().keys()

    def values(self) -> Any:
        self.walks += 1
        return super().values()

    def items(self) -> Any:
        self.walks += 1
        return super().items()


def test_a_workflow_of_many_members_is_gone_through_no_more_often_than_a_small_one() -> None:
    found: set[int] = set()
    for count in (3, 30):
        flow = Workflow()
        by = flow.add("one", new())
        flow.graft("place", by=by)
        for number in range(count):
            flow.add(f"{number}", new(), deps=["one", "place"])
        walked = Walked(flow.parts)
        flow.parts = walked
        flow.tree()
        flow.svg()
        flow.mermaid()
        found.add(walked.walks)
    assert len(found) == 1, found
