"""What a runner can't be told is refused where it is written, in the same words whether it is a keyword or a flag."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Runner, Runners
from oban_sa.describe.exceptions import shown
from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.settings.settings import load
from oban_sa.workers import Registry

URL = "postgresql+asyncpg://nobody@nowhere/none"


def at(name: str, *values: tuple[Any, str]) -> list[Any]:
    return [pytest.param(name, value, words, id=f"{name}={shown(value, 40)}") for value, words in values]


NO_SPAN: list[tuple[Any, str]] = [
    (-1, "can't be negative"),
    (-0.5, "can't be negative"),
    (timedelta(seconds=-1), "can't be negative"),
    (math.nan, "not a finite span of time"),
    (math.inf, "not a finite span of time"),
    (1e300, "longer than a thousand years"),
    ("2 years", "no fixed length; count it in days"),
    ("400 days", "longer than a year"),
    ("soon", "'soon' is not a span of time; write seconds (90)"),
    (True, "True is not a span of time"),
    ([5], "[5] is not a span of time"),
]
NO_INTERVAL = [
    *NO_SPAN,
    (0, "write for example 1"),
    ("0 s", "write for example 1"),
    (1e-9, "shorter than a millisecond"),
]
NO_COUNT: list[tuple[Any, str]] = [
    (0, "0 is not a whole number of at least 1; write for example 4"),
    (-3, "at least 1"),
    (1.5, "1.5 is not a whole number"),
    (True, "True is not a whole number"),
    (10**12, "more than anything here counts"),
    (10**5000, "more than anything here counts"),
    ("many", "'many' is not a whole number"),
]
NO_NAME: list[tuple[Any, str]] = [
    ("", "is not a text"),
    ("  ", "is not a text"),
    (7, "7 is not a text"),
    ("a\nb", "leave out its control characters"),
    ("a\x1b[2J", "leave out its control characters"),
    ("a\u2028b", "leave out its control characters"),
    ("n" * 256, "at most 255 are possible"),
]
NO_MODULES: list[tuple[Any, str]] = [
    (["myapp/jobs.py"], "write for example myapp.jobs"),
    (["my app"], "is not the name of a module"),
    ([7], "7 is not a text"),
    ([""], "is not a text"),
    (7, "write for example"),
]

EITHER = [
    *at("grace", *NO_SPAN),
    *at("poll_every", *NO_INTERVAL),
    *at("stage_every", *NO_INTERVAL),
    *at("heartbeat_every", *NO_INTERVAL),
    *at("dead_after", *NO_INTERVAL),
    *at("abandoned_after", *NO_INTERVAL),
    *at("keep_young_after", *NO_INTERVAL),
    *at(
        "blocked_after",
        *NO_SPAN,
        (0, "every loop is blocked for 0 seconds; write for example 1"),
        (1e-9, "millisecond"),
    ),
    *at("idle_in_transaction_after", *NO_SPAN, (0, "every transaction is idle for 0 seconds; write for example 30")),
    *at("process_pool", *NO_COUNT),
    *at("recycle_after", *NO_COUNT),
    *at("name", *NO_NAME),
    *at("node", *NO_NAME),
    *at("health_host", *NO_NAME),
    *at(
        "schema",
        *NO_NAME[:2],
        *NO_NAME[3:6],
        ("s" * 50, "longer than the 49 bytes"),
        ("ü" * 25, "longer than the 49 bytes"),
    ),
    *at("allow", *NO_MODULES),
    *at("imports", *NO_MODULES),
    *at(
        "translate",
        ([""], "is not a text"),
        ([7], "7 is not a text"),
        (["public"], "'public' stands for the runner's schema anyway"),
        (["a\0"], "is not a text"),
        (["a\x1b"], "leave out its control characters"),
    ),
    *at("listen_url", *((url, "is not a URL; write for example postgresql://") for url in ("nowhere", "", 7))),
    *at(
        "queues",
        ({}, "write for example"),
        ({"": 1}, "a queue has no name"),
        ({"a": 0}, "the queue 'a' has the limit 0; it runs 1 to 100000 jobs at once"),
        ({"a": -1}, "has the limit -1"),
        ({"a": 100_001}, "has the limit 100001"),
        ({"a": 10**5000}, "has the limit <repr() of this int failed>"),
        ({"a": 1.5}, "has the limit 1.5, which is not a whole number; write a:10"),
        ({"a": True}, "has the limit True"),
        ({"a": None}, "has the limit None"),
        ({7: 1}, "7 is not the name of a queue"),
        ({"q" * 128: 1}, "at most 127 are possible"),
        ({"a\nb": 1}, "leave out its control characters"),
        ({"a\x1b": 1}, "leave out its control characters"),
        (7, "write for example"),
    ),
    *at(
        "prune",
        ("soon", "is not a span of time"),
        (-1, "can't be negative"),
        ({"complete": 1}, "did you mean 'completed'"),
    ),
    *at("health_port", (70_000, "70000"), (-1, "-1"), (True, "True"), ("http", "'http'"), (1.5, "1.5")),
]

KEYWORDS = [
    *at("connections", *NO_COUNT),
    *at("process_pool", ("4", "'4' is not a whole number")),
    *at("allow", ("myapp", "'myapp' is one text, and this is a list; write ['myapp']")),
    *at("imports", ("myapp", "'myapp' is one text, and this is a list; write ['myapp']"), ({"a": 1}, "is no list")),
    *at(
        "translate", ("tenant", "'tenant' is one text, and this is a list; write ['tenant']"), (None, "None is no list")
    ),
    *at("metrics", (1, "1 is neither True nor False"), ("yes", "neither True nor False"), (None, "None is neither")),
    *at("schema", ("a,b", "write Runners(...) of one each"), (["a"], "is not a text"), (None, "None is not a text")),
    *at(
        "queues",
        ("default:10", 'says none; write for example queues={"default": 10}'),
        ({"a": "10"}, "which is not a whole number"),
    ),
    *at(
        "crontab",
        ("@daily", "'@daily' is no list of entries"),
        (CronEntry("@daily", "w"), "is one entry; write for example [CronEntry('@daily', MyWorker)]"),
        ({"expression": "@daily"}, "is one entry"),
        (7, "7 is no list of entries"),
        (["@daily"], "has no worker"),
        ([7], "7"),
    ),
    *at("middleware", ("trace", "middleware is a list"), ([7], "not 7"), (7, "middleware is a list")),
    *at("sessions", (7, "7 is no sessionmaker"), (create_engine("sqlite://"), "makes no sessions")),
    *at("registry", ({}, "registry is a Registry, not {}"), (7, "registry is a Registry")),
]


OTHER_EXAMPLES = {"queues", "allow", "imports", "translate", "health_port"}
"""Those that are written otherwise as a text, so that messages show another example."""


@pytest.fixture
def nowhere() -> AsyncEngine:
    """An engine that is never connected."""
    return create_async_engine(URL)


def by_keyword(engine: AsyncEngine, name: str, value: Any) -> str:
    with pytest.raises(InvalidOption) as caught:
        Runner(engine, **{name: value})
    return str(caught.value)


def by_flag(name: str, value: Any) -> str:
    with pytest.raises(InvalidOption) as caught:
        load(environ={}, flags={name: value})
    return str(caught.value)


@pytest.mark.parametrize(("name", "value", "words"), KEYWORDS)
def test_a_keyword_that_can_not_be_meant_is_refused_with_words(
    nowhere: AsyncEngine, name: str, value: Any, words: str
) -> None:
    message = by_keyword(nowhere, name, value)
    assert words in message
    assert name in message


@pytest.mark.parametrize(("name", "value", "words"), EITHER)
def test_the_rules_of_keywords_and_flags_are_one_and_the_same(
    nowhere: AsyncEngine, name: str, value: Any, words: str
) -> None:
    ours, theirs = by_keyword(nowhere, name, value), by_flag(name, value)
    for message in (ours, theirs):
        assert words in message
        assert len(message) < 400
        assert "\x1b" not in message
    assert name in ours
    flag = {"imports": "import"}.get(name, name).replace("_", "-")
    assert theirs.startswith(f"--{flag}: ")
    if name not in OTHER_EXAMPLES:
        assert ours == f"{name}: {theirs.partition(': ')[2].removeprefix(f'{name}: ')}"


@pytest.mark.parametrize(
    ("options", "fails"),
    [
        ({"heartbeat_every": 5, "dead_after": 9}, True),
        ({"heartbeat_every": 5, "dead_after": 10}, False),
        ({"heartbeat_every": 20}, True),
        ({"dead_after": 9}, True),
    ],
)
def test_a_late_beat_is_no_death_by_keyword_or_by_flag(
    nowhere: AsyncEngine, options: dict[str, Any], fails: bool
) -> None:
    if not fails:
        Runner(nowhere, **options)
        load(environ={}, flags=options)
        return
    with pytest.raises(InvalidOption, match="make dead_after at least twice heartbeat_every") as ours:
        Runner(nowhere, **options)
    with pytest.raises(InvalidOption) as theirs:
        load(environ={}, flags=options)
    assert str(ours.value) in str(theirs.value)


def test_runners_have_the_same_rules(nowhere: AsyncEngine) -> None:
    for options in ({"health_port": 70_000}, {"health_port": 0, "health_host": ""}):
        with pytest.raises(InvalidOption, match="health_"):
            Runners(Runner(nowhere), **options)  # type: ignore[arg-type]


def test_a_span_that_is_refused_is_still_an_invalid_period(nowhere: AsyncEngine) -> None:
    with pytest.raises(InvalidPeriod, match=r"^grace: "):
        Runner(nowhere, grace="soon")


def test_what_can_be_meant_is_taken(nowhere: AsyncEngine) -> None:
    runner = Runner(
        nowhere,
        queues={"default": 1, "a:b, c": 100_000},
        grace=0,
        poll_every="1 hour",
        stage_every=timedelta(milliseconds=20),
        abandoned_after=None,
        blocked_after=None,
        idle_in_transaction_after=None,
        prune=None,
        allow=(each for each in ("myapp", "myapp.jobs")),
        imports={"myapp.jobs": 1}.keys(),
        translate=[None, "tenant"],
        crontab=iter([]),
        connections=1,
        process_pool=1,
        recycle_after=1,
        metrics=False,
        health_port=0,
        registry=Registry(),
        node="web.1",
        schema="ünï",
    )
    assert (runner.node, runner.schema, runner.queues) == ("web.1", "ünï", {"default": 1, "a:b, c": 100_000})
