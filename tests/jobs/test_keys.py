from __future__ import annotations

from enum import Enum
from uuid import UUID

import pytest

from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs.keys import LONGEST, Paths, bounded, key_text
from oban_sa.jobs.references import ref


def key(given: object, args: object = None, meta: object = None) -> str | None:
    return Paths.read(given, what="partition").key("app.Call", args or {}, meta or {}, what="partition")


class Size(Enum):
    SMALL = "s"


@pytest.mark.parametrize(
    ("given", "args", "expected"),
    [
        ("worker", {}, "app.Call"),
        ("args.a", {"a": "x"}, "x"),
        ("args.a", {"a": ""}, ""),
        ("args.a", {"a": 7}, "7"),
        ("args.a", {"a": True}, "true"),
        ("args.a", {"a": None}, None),
        ("args.a.b", {"a": {"b": 1}}, "1"),
        ("args.a.1", {"a": [1, 2]}, "2"),
        ("args.a", {"a": UUID(int=5)}, "00000000-0000-0000-0000-000000000005"),
        ("args.a", {"a": Size.SMALL}, "s"),
        (("worker", "args.a"), {"a": "x"}, '["app.Call", "x"]'),
        (["args.a", "args.b"], {"a": 'ü"\n', "b": None}, '["ü\\"\\n", null]'),
        (("args.a",), {"a": 1}, "[1]"),
    ],
)
def test_a_key_is_the_text_of_a_value_or_the_list_of_several(given, args, expected):
    assert key(given, args) == expected


def test_a_key_may_be_in_the_meta():
    assert key("meta.region", meta={"region": "eu"}) == "eu"


def test_a_long_key_is_cut_and_stays_another_for_each_longer_one():
    one, other = bounded("x" * 201), bounded("x" * 202)
    assert bounded("x" * 200) == "x" * 200
    assert len(one) == len(other) == LONGEST
    assert one[:135] == "x" * 135
    assert one != other
    assert key("args.a", {"a": "ü" * 300}) == bounded("ü" * 300)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tenant_id", "partition='tenant_id' is not where a job has its key; did you mean \"args.tenant_id\"?"),
        ("wroker", "did you mean 'worker'?"),
        ("args", 'write partition="args.tenant_id"'),
        ("args.", "is not where"),
        ("arg.x", "partition='arg.x' is not where a job has its key; did you mean \"args.x\"?"),
        ("args['x']", 'did you mean "args.x"?'),
        ("args->x", 'did you mean "args.x"?'),
        ("customer.x", 'write partition="args.tenant_id"'),
        ("worker.name", "is not where"),
        ((), "is not where"),
        (("worker", 5), "partition=5 is not where"),
        (7, "a tuple of these, or a function of the job"),
        (ref(object()), "can't be a ref(...)"),
    ],
)
def test_what_names_no_place_is_refused_with_what_to_write(given, message):
    with pytest.raises(InvalidOption) as refused:
        Paths.read(given, what="partition")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("given", "args", "message"),
    [
        ("args.tenant_id", {"tenantid": 1}, "args has tenantid, and no 'tenant_id'; did you mean 'tenantid'?"),
        ("args.tenant_id", {}, "args is empty, so it has no 'tenant_id'"),
        ("args.a.b", {"a": 1}, "args.a is no object, so it has no 'b'"),
        ("args.a.2", {"a": [1]}, "no '2'"),
        ("args.a", {"a": 1.5}, "a key is a text, a whole number or a tuple of these"),
        ("args.a", {"a": {"id": 1}}, "say which part of it"),
        ("args.a", {"a": ref(object())}, "flush the session first"),
        ("args.a.id", {"a": ref(object())}, "flush the session first"),
        (("args.a", "worker"), {"a": [1]}, "is a text, a whole number or a tuple"),
    ],
)
def test_a_value_that_is_missing_or_makes_no_key_is_refused(given, args, message):
    with pytest.raises(InvalidJob) as refused:
        key(given, args)
    assert message in str(refused.value)


def test_a_function_may_answer_several_values():
    assert key_text(("a", 1), what="partition") == '["a", 1]'
