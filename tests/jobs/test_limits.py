from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from oban_sa.errors import InvalidOption
from oban_sa.jobs import limits
from oban_sa.jobs.limits import Limits, Queue, Rate, read_rate

FULL = Queue(20, global_limit=50, by="partition", each=5, rate="60/minute", burst=True, fair={"acme": 3})


@pytest.mark.parametrize(
    ("text", "n", "per"),
    [
        ("60/minute", 60, 60),
        ("100/s", 100, 1),
        ("10 per 5 minutes", 10, 300),
        ("10 PER hour", 10, 3600),
        ("1,000 / hour", 1000, 3600),
        ("1_000/1d", 1000, 86_400),
        ("2/250ms", 2, 0.25),
        ("5/1h30m", 5, 5400),
    ],
)
def test_a_rate_is_written_as_people_write_it(text, n, per):
    assert read_rate(text) == Rate(n, per=per)


def test_the_span_of_a_rate_becomes_seconds():
    assert Rate(60, per="1 minute") == Rate(60, per=60) == Rate(60, per=timedelta(minutes=1))
    assert Rate(60, per="1 minute").span == 60.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("60", "'60' is no rate, which is a whole number and a time; write for example 60/minute"),
        ("60/minte", "did you mean 'minute'?"),
        ("a/minute", "is no rate"),
        ("0/minute", "a number from 1 to"),
        ("60/month", "no fixed length"),
        (60, 'or Rate(60, per="1 minute") in Python'),
        ({"n": 60}, "at least n and per"),
        ({"n": 60, "per": 1, "algoritm": "fixed"}, "did you mean 'algorithm'?"),
        ({"allowed": 60, "period": 1}, "a rate has no option 'allowed'; write n=60"),
        ({"n": 60, "per": "minute"}, "per: 'minute' is a unit of time; write how many: \"1 minute\""),
        ({1: 60}, "a rate has no option 1; there are n, per, algorithm, burst, weight, shared"),
        ("60 per 5 minits", "rate '60 per 5 minits': 'minits' in '5 minits' is not a unit of time"),
        ("1.5/s", "which is a whole number and a time"),
    ],
)
def test_what_is_no_rate_is_refused_with_what_to_write(given, message):
    with pytest.raises(InvalidOption) as refused:
        read_rate(given)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1.5}, "a rate is a whole number, not 1.5"),
        ({"n": True}, "a rate is a whole number"),
        ({"n": 0}, "a number from 1 to"),
        ({"per": 0}, "a millisecond"),
        ({"per": "soon"}, "per: 'soon' is not a span of time"),
        ({"period": 60}, "Rate has no option 'period'; write per=\"1 minute\""),
        ({"wieght": "args.points"}, "did you mean 'weight'?"),
        ({"by": "partition"}, 'write by="partition" at the queue: Queue(20, by="partition", rate=Rate(...))'),
        ({"algorithm": "slidding"}, "did you mean 'sliding'?"),
        ({"algorithm": "leaky"}, "write one of sliding, fixed, bucket"),
        ({"burst": 3}, 'write algorithm="bucket" or leave burst out'),
        ({"algorithm": "bucket", "burst": 0}, "burst is a number from 1"),
        ({"weight": lambda job: job.args["points"]}, 'weight="args.points"'),
        ({"weight": "points"}, 'weight="args.points"'),
        ({"shared": 1}, "shared is True or False"),
    ],
)
def test_options_of_a_rate_are_checked(options, message):
    with pytest.raises(InvalidOption) as refused:
        Rate(**{"n": 60, "per": 60, **options})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": "10"}, "write for example Queue(10)"),
        ({"limit": 0}, "a number from 1 to 100000"),
        ({"each": 5}, 'write by="partition", each=5, or global_limit=5 for all jobs of the queue'),
        ({"fair": {"acme": 3}}, 'the queue has none; write by="partition"'),
        ({"burst": True}, "no `each` is given"),
        ({"by": "partion"}, "did you mean 'partition'?"),
        ({"by": "args.account_id"}, '@worker(partition="args.account_id")'),
        ({"by": "worker"}, '@worker(partition="worker")'),
        ({"by": 1}, "by=1 is unknown"),
        ({"global_limit": 0}, "global_limit is a number from 1"),
        ({"global_limit": True}, "global_limit is a whole number"),
        ({"by": "partition", "each": 2.0}, "each is a whole number"),
        ({"by": "partition", "fair": {"acme": 0}}, "the weight of 'acme' is a number from 1"),
        ({"by": "partition", "fair": {"acme": 1.5}}, "the weight of 'acme' is a whole number"),
        ({"by": "partition", "fair": {7: 1}}, "the key of a partition is a text, not 7"),
        ({"by": "partition", "fair": "acme"}, "True, False or a table of weights"),
        ({"rate": "fast"}, "is no rate"),
        ({"gobal_limit": 5}, "Queue has no option 'gobal_limit'; did you mean 'global_limit'?"),
        ({"weight": {"acme": 3}}, 'write fair={"acme": 3} for partitions, or rate=Rate('),
        ({"per": 60}, 'it belongs to the rate: rate=Rate(60, per="1 minute")'),
        ({"partition": "args.tenant_id"}, '; write by="partition", and at the worker @worker(partition='),
        ({"paused": True}, "there are limit, global_limit, by, each, rate, burst, fair"),
    ],
)
def test_options_of_a_queue_are_checked(options, message):
    with pytest.raises(InvalidOption) as refused:
        Queue(**{"limit": 20, **options})
    assert message in str(refused.value)


def test_values_in_other_places_are_refused_with_what_to_write() -> None:
    make_queue: Any = Queue
    make_rate: Any = Rate
    for make, given, message in (
        (make_queue, ("calls", 10), 'Queue takes its options by their names: write queues={"calls": Queue(20'),
        (make_queue, (), "Queue needs limit: write"),
        (make_rate, (60, "1 minute"), 'Rate takes its options by their names: write Rate(60, per="1 minute")'),
        (make_rate, ("60/minute",), "Rate needs per: write"),
        (make_rate, (), "Rate needs n and per: write"),
    ):
        with pytest.raises(InvalidOption) as refused:
            make(*given)
        assert message in str(refused.value)


def test_a_queue_without_limits_has_none():
    assert Queue(20).limits is None
    assert Queue(20, fair=False).limits is None


def test_the_limits_of_a_queue_are_what_its_producers_need():
    assert FULL.limits == Limits(
        global_limit=50, by="partition", each=5, rate=Rate(60, per=60), burst=True, weights={"acme": 3}
    )
    assert Queue(1, by="partition", fair=False).limits == Limits(by="partition", fair=False)


@pytest.mark.parametrize(
    "queue",
    [
        FULL,
        Queue(1, global_limit=2),
        Queue(1, by="partition", fair=False),
        Queue(1, rate=Rate(5, per=1, algorithm="bucket", burst=2, weight="args.points", shared=True)),
    ],
)
def test_limits_survive_json(queue):
    limits = queue.limits
    assert limits is not None
    assert Limits.from_json(json.loads(json.dumps(limits.as_json()))) == limits


def test_json_of_limits_has_only_what_is_limited():
    limits = Queue(20, global_limit=50, rate="60/minute").limits
    assert limits is not None
    assert limits.as_json() == {"global_limit": 50, "rate": {"n": 60, "per": 60.0}}


def test_limits_are_told_in_words():
    assert str(FULL.limits) == (
        "50 in the cluster; 5 of a partition and more while others are idle; 60 in 1 minute of a partition; "
        "acme 3 in a turn"
    )
    assert str(Queue(1, by="partition", fair=False).limits) == "by partition; in order"
    rate = Rate(5, per=1, algorithm="bucket", burst=2, weight="args.points", shared=True)
    assert str(Queue(1, by="partition", rate=rate).limits) == (
        "by partition; 5 in 1 second, bucket, burst 2, weight args.points, shared"
    )


DECIDED: list[tuple[Queue, dict[str, Any], Queue]] = [
    (Queue(20), {}, Queue(20)),
    (Queue(20), {"global_limit": 30}, Queue(20, global_limit=30)),
    (Queue(20, global_limit=50), {"global_limit": None}, Queue(20)),
    (Queue(20), {"each": 5}, Queue(20, by="partition", each=5)),
    (FULL, {"each": None}, Queue(20, global_limit=50, by="partition", rate="60/minute", fair={"acme": 3})),
    (FULL, {"by": None}, Queue(20, global_limit=50, rate="60/minute")),
    (
        FULL,
        {"rate": Rate(1, per=1), "fair": False},
        Queue(20, global_limit=50, by="partition", each=5, rate=Rate(1, per=1), burst=True, fair=False),
    ),
    (Queue(20), {"fair": {"acme": 3}}, Queue(20)),
    (Queue(20), {"burst": True}, Queue(20)),
]


@pytest.mark.parametrize(("queue", "decided", "then"), DECIDED)
def test_what_is_decided_at_run_time_takes_the_place_of_what_was_declared(queue, decided, then):
    assert queue.decided(decided) == then


@pytest.mark.parametrize("name", limits.SETTINGS)
def test_a_setting_is_checked_before_it_is_kept(name):
    with pytest.raises(InvalidOption):
        limits.setting_as_json(name, -1)
