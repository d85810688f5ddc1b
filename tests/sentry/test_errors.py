"""Which failures are errors in Sentry, and what these say of the job."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import sentry_sdk
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Job, job
from oban_sa.errors import InvalidOption
from oban_sa.sentry import ObanIntegration
from oban_sa.telemetry.log import follow_events
from tests.runner.conftest import Harness
from tests.sentry.conftest import Kept
from tests.support import run_python

pytestmark = pytest.mark.usefixtures("unchanged_logging")

Sentry = Callable[..., None]


async def failed_twice(harness: Harness) -> Job:
    """Let a job fail once for now, and once for good."""

    @job(name="fails", registry=harness.registry, max_attempts=2, backoff=lambda _: 0)
    async def fails() -> None:
        raise LookupError("no such order")

    await harness.enqueue(made := fails.new())
    await harness.drain()
    await harness.sql("UPDATE oban_jobs SET state = 'available' WHERE state = 'retryable'")
    await harness.drain()
    assert (await harness.job(made.id)).state == "discarded"
    return made


@pytest.mark.parametrize(("capture", "attempts"), [("discarded", [2]), ("every", [1, 2]), ("never", [])])
async def test_errors_are_told_of_once_a_job_is_discarded_or_as_is_wanted(
    harness: Harness, kept: Kept, sentry: Sentry, capture: str, attempts: list[int]
) -> None:
    sentry(capture=capture)
    stop = follow_events()  # what it logs must be no second event
    await failed_twice(harness)
    stop()
    assert [each["contexts"]["oban"]["attempt"] for each in kept.errors] == attempts
    statuses = [each["contexts"]["trace"]["status"] for each in kept.transactions]
    assert statuses == ["internal_error", "internal_error"]


async def test_an_error_has_the_exception_the_job_and_the_trace(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()
    made = await failed_twice(harness)
    [error] = kept.errors
    [raised] = error["exception"]["values"]
    assert (raised["type"], raised["value"]) == ("LookupError", "no such order")
    assert raised["mechanism"] == {"type": "oban", "handled": False}
    assert raised["stacktrace"]["frames"][-1]["function"] == "fails"
    assert error["contexts"]["oban"] == {
        "job_id": made.id,
        "worker": "fails",
        "queue": "default",
        "attempt": 2,
        "max_attempts": 2,
        "tags": [],
    }
    assert {"oban.worker": "fails", "oban.queue": "default"}.items() <= error["tags"].items()
    assert error["transaction"] == "fails"
    assert error["contexts"]["trace"]["span_id"] == kept.transactions[-1]["contexts"]["trace"]["span_id"]


async def test_a_commit_that_fails_is_an_error(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="writes", registry=harness.registry, max_attempts=1)
    async def writes(session: AsyncSession) -> None:
        session.add(Job(worker="other", priority=-1))

    await harness.enqueue(writes.new())
    await harness.drain()
    [error] = kept.errors
    assert error["contexts"]["oban"]["worker"] == "writes"


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, False),
        ({"send_default_pii": False}, False),
        ({"send_default_pii": True}, True),
        ({"data_collection": {"queues": False}}, False),
        ({"data_collection": {"queues": True}}, True),
    ],
)
async def test_args_are_sent_only_where_the_program_says_so(
    harness: Harness, kept: Kept, sentry: Sentry, options: dict[str, Any], sent: bool
) -> None:
    sentry(**options)

    @job(name="fails", registry=harness.registry, max_attempts=1)
    async def fails(order: str) -> None:
        raise LookupError("no such order")

    await harness.enqueue(fails.new("order-of-ada"))
    await harness.drain()
    [error] = kept.errors
    assert error["contexts"]["oban"].get("args") == ({"order": "order-of-ada"} if sent else None)


async def test_variables_of_our_own_code_are_sent_only_with_args(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry()

    @job(name="reports", registry=harness.registry)
    async def reports(order: str) -> None:
        sentry_sdk.set_tag("order", "known")
        try:
            job(max_attempts=order)  # type: ignore[call-overload]
        except Exception:
            sentry_sdk.capture_exception()

    await harness.enqueue(reports.new("order-of-ada"))
    await harness.drain()
    [error] = kept.errors
    frames = [frame for value in error["exception"]["values"] for frame in value["stacktrace"]["frames"]]
    assert {"vars" in frame for frame in frames if frame["module"].startswith("oban_sa.")} == {False}
    assert {"vars" in frame for frame in frames if frame["function"] == "reports"} == {True}


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize("hiding", [{"redact": ["card"]}, {"encrypt": True}])
async def test_what_no_one_is_to_see_is_never_sent(
    harness: Harness, kept: Kept, sentry: Sentry, monkeypatch: pytest.MonkeyPatch, hiding: dict[str, Any]
) -> None:
    if "encrypt" in hiding:
        monkeypatch.setenv("OBAN_KEYS", base64.b64encode(bytes(range(32))).decode())
    sentry(send_default_pii=True, include_local_variables=True)
    log = logging.getLogger("shop")

    @job(name="pays", registry=harness.registry, max_attempts=1, **hiding)
    async def pays(card: str) -> None:
        digits = card.replace("-", "")  # no text of it is known to be hidden, and a variable of this frame
        sentry_sdk.add_breadcrumb(message=f"paying by {card}", data={"card": [card]})
        log.error("refused: %s", card, extra={"card": {"number": card}})
        with sentry_sdk.start_span(op="http.client", name=f"POST /cards/{card}"):
            assert digits
            raise LookupError(f"no such card: {card}")

    await harness.enqueue(pays.new("4111-1111"))
    await harness.drain()
    assert len(kept.errors) == 2
    assert len(kept.transactions) == 1
    assert "4111" not in json.dumps(kept.items)
    assert kept.errors[-1]["contexts"]["oban"]["args"] == {"card": "[redacted]"}
    assert kept.errors[-1]["exception"]["values"][0]["value"] == "no such card: [redacted]"


async def test_what_fails_before_any_middleware_is_told_too(harness: Harness, kept: Kept, sentry: Sentry) -> None:
    sentry(capture="every")
    from oban_sa import telemetry

    event = telemetry.JobException.of(
        telemetry.Source(node="here"),
        Job("unknown", id=7),
        state="discarded",
        duration=0.0,
        error=LookupError("no worker"),
    )
    telemetry.emit(event)
    [error] = kept.errors
    assert error["contexts"]["oban"]["job_id"] == 7


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidOption, match=r"capture.*sometimes.*discarded, every"):
        ObanIntegration(capture="sometimes")  # type: ignore[arg-type]


def test_without_the_sdk_it_says_what_to_install() -> None:
    ended = run_python("-c", "import sys; sys.modules['sentry_sdk'] = None; import oban_sa.sentry")
    assert ended.returncode == 1
    assert "InvalidOption" in ended.stderr
    assert "pip install 'oban-sa[sentry]'" in ended.stderr
