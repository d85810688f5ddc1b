"""Limits of queues, shared out among several runners."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oban_sa.errors import InvalidOption
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.limits import Queue
from oban_sa.jobs.retention import Prune
from oban_sa.runner.concurrency.processes.pool import processors
from oban_sa.service.member_main import HEAD, packed
from oban_sa.service.split import shared
from oban_sa.settings.queues import at_once
from oban_sa.settings.settings import Settings, load


def queues(given: str, processes: int) -> list[dict[str, int]]:
    return [at_once(share.queues) for share in shared(load(flags={"queues": given, "processes": processes}))]


@pytest.mark.parametrize(
    ("given", "processes", "expected"),
    [
        ("default:10", 4, [{"default": 3}, {"default": 3}, {"default": 2}, {"default": 2}]),
        ("a:1,b:1", 2, [{"a": 1}, {"b": 1}]),
        ("a:3,b:3", 2, [{"a": 2, "b": 1}, {"a": 1, "b": 2}]),
        ("default:5,rare:1", 3, [{"default": 2}, {"default": 2}, {"default": 1, "rare": 1}]),
        ("default:7", 1, [{"default": 7}]),
    ],
)
def test_what_can_not_be_divided_goes_to_those_with_the_least(
    given: str, processes: int, expected: list[dict[str, int]]
) -> None:
    assert queues(given, processes) == expected


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1),
    st.integers(1, 12),
)
def test_nothing_is_lost_nobody_is_idle_and_no_share_is_much_larger_than_another(
    limits: dict[str, int], processes: int
) -> None:
    assume(processes <= sum(limits.values()))
    shares = [at_once(share.queues) for share in shared(Settings(queues=limits, processes=processes))]
    assert all(shares)
    for queue, limit in limits.items():
        given = [share.get(queue, 0) for share in shares]
        assert sum(given) == limit
        assert max(given) - min(given) <= 1
    loads = [sum(share.values()) for share in shares]
    assert max(loads) - min(loads) <= 1


def test_limits_of_the_whole_cluster_are_not_divided() -> None:
    calls = Queue(5, global_limit=3, by="partition", each=2, rate="60/minute")
    shares = shared(Settings(queues={"calls": calls, "default": 3}, processes=2))
    assert [share.queues for share in shares] == [
        {"calls": Queue(3, global_limit=3, by="partition", each=2, rate="60/minute"), "default": 1},
        {"calls": Queue(2, global_limit=3, by="partition", each=2, rate="60/minute"), "default": 2},
    ]


def test_more_runners_than_jobs_at_once_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"^--processes: 4 processes can't share .*, 3 in sum; give at most 3"):
        queues("a:2,b:1", 4)


def test_each_runner_is_a_node_of_its_own() -> None:
    assert [share.node for share in shared(load(flags={"processes": 2, "node": "web"}))] == ["web.1", "web.2"]
    assert [share.node for share in shared(load(flags={"processes": 2}))] == ["", ""]


def test_processes_for_jobs_are_shared_out_too() -> None:
    assert [share.process_pool for share in shared(load(flags={"processes": 2, "process_pool": 5}))] == [2, 2]
    assert [share.process_pool for share in shared(load(flags={"processes": 2}))] == [max(processors() // 2, 1)] * 2


def test_settings_cross_to_a_runner_as_they_are() -> None:
    settings = Settings(
        crontab=(CronEntry("0 9 * * *", "app.Report", args={"a": 1}),),
        queues={"calls": Queue(5, by="partition", fair={"acme": 3}), "default": 3},
        prune=Prune(completed="1 hour", queues={"audit": None}),
        database_url="postgresql://u:secret@h/d",
        origins={"node": "--node"},
    )
    data = packed(settings, ["default", "other"])
    crossed, queues = pickle.loads(data[HEAD.size :])
    assert repr(crossed) == repr(settings)
    assert (crossed.database_url, crossed.origins) == (settings.database_url, settings.origins)
    assert queues == ("default", "other")
    assert HEAD.unpack(data[: HEAD.size]) == (len(data) - HEAD.size,)
