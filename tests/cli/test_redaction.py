"""Named args are shown by no command and stand in no error, and in the row they are as they were."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, enqueue, job
from oban_sa.errors import InvalidOption
from oban_sa.jobs import redaction
from oban_sa.workers import Registry
from tests.runner.conftest import Harness

CARD, PIN = "4929-5554-3321", 8472


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def pay(registry: Registry) -> Any:
    @job(registry=registry, name="pay", redact=["card", "customer.pin"], backoff=1000)
    async def pay(card: str, customer: dict[str, Any], cents: int = 1) -> None:
        try:
            raise KeyError(CARD)
        except KeyError as error:
            raise ValueError(f"no money on {card} with {customer['pin']} of {customer['name']}") from error

    return pay


async def test_no_command_error_or_log_shows_them(
    engine: AsyncEngine, sessions: Any, registry: Registry, pay: Any, shell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="oban_sa")
    customer = {"name": "Ada", "pin": PIN}
    async with sessions.begin() as session:
        made = enqueue(session, pay.new(CARD, customer))
        wrong = enqueue(session, pay.new(CARD, customer))
        assert CARD not in str(made)
    harness = Harness(engine, sessions, registry)
    await harness.sql(f"UPDATE oban_jobs SET args = jsonb_set(args, '{{cents}}', '\"{CARD}\"') WHERE id = {wrong.id}")
    async with harness.runner():
        failed = await harness.becomes(made.id, "retryable")
        misfit = await harness.becomes(wrong.id, "retryable")
    assert failed.args == {"card": CARD, "customer": customer, "cents": 1}  # the row is as it was
    assert "no money on [redacted] with [redacted] of Ada" in str(failed.errors[0]["error"])
    for each in (failed, misfit):
        assert CARD not in str(each.errors)
        assert str(PIN) not in str(each.errors)
    assert CARD not in caplog.text
    assert str(PIN) not in caplog.text


def test_commands_hide_what_rows_of_other_programs_have(shell: Any, sync_sessions: Any) -> None:
    with sync_sessions.begin() as session:
        made = Job(
            "pay",
            args={"card": CARD, "customer": {"name": "Ada", "pin": PIN}},
            meta={"redacted": ["card", "customer.pin"]},
            state="discarded",
            errors=[{"attempt": 1, "error": f"ValueError: {CARD}, {PIN}"}],
        )
        session.add(made)
        session.flush()
        number = made.id
    for words in (("jobs", "list"), ("jobs", "list", "--json"), ("jobs", "show", str(number))):
        printed = shell.says(*words)
        assert "Ada" in printed, words
        assert "[redacted]" in printed
        assert CARD not in printed
        assert str(PIN) not in printed
    shown = json.loads(shell.says("jobs", "show", str(number), "--json"))
    assert shown["args"] == {"card": "[redacted]", "customer": {"name": "Ada", "pin": "[redacted]"}}
    assert shown["errors"][0]["error"] == "ValueError: [redacted], [redacted]"
    for more in (("--dry-run",), ()):
        new = {"card": "5555-1111-2222", "customer": {"name": "Bob", "pin": PIN}}
        printed = shell.says("jobs", "update", str(number), "--args", json.dumps(new), *more)
        assert "[redacted]" in printed
        assert "Bob" in printed
        for hidden in (CARD, str(PIN), "5555-1111-2222"):
            assert hidden not in printed


@pytest.mark.parametrize("meta", [None, [], "x", {"redacted": 7}, {"redacted": [None, "", ".", "a..b", "none.of"]}])
def test_strange_meta_hides_nothing_and_fails_nothing(meta: object) -> None:
    args = {"a": [1, {"b": "secret"}], "": 1}
    assert redaction.args(args, meta) in (args, {**args, "": "[redacted]"})
    redaction.text("any", args, meta)


def test_paths_lead_into_lists_too() -> None:
    args = {"people": [{"pin": 1234, "name": "a"}, {"pin": "5678"}, None]}
    meta = {"redacted": ["people.pin"]}
    assert redaction.args(args, meta) == {"people": [{"pin": "[redacted]", "name": "a"}, {"pin": "[redacted]"}, None]}
    assert redaction.text("1234 or 5678 or a", args, meta) == "[redacted] or [redacted] or a"
    assert args["people"][0] == {"pin": 1234, "name": "a"}


def test_a_name_that_is_part_of_the_one_before_leads_into_a_list_too() -> None:
    args = {"people": [{"pe": "4111-x"}], "a": [[{"a": "5678-x"}]]}
    meta = {"redacted": ["people.pe", "a.a"]}
    assert redaction.args(args, meta) == {"people": [{"pe": "[redacted]"}], "a": [[{"a": "[redacted]"}]]}
    assert redaction.text("4111-x or 5678-x", args, meta) == "[redacted] or [redacted]"


def test_a_value_is_found_as_it_stands_in_json_and_in_python() -> None:
    args = {"name": "Mü'\\n\n"}
    meta = {"redacted": ["name"]}
    for said in (args["name"], repr(args), json.dumps(args), json.dumps(args, ensure_ascii=False)):
        assert "[redacted]" in redaction.text(said, args, meta)
        assert "M" not in redaction.text(said, args, meta)


def test_names_that_the_worker_does_not_take_are_refused(registry: Registry) -> None:
    async def code(card: str) -> None: ...

    for given, words in (
        ("card", r"write redact=\['card'\]"),
        (["cart"], "takes no 'cart'"),
        ([7], "names no args"),
        (["a..b"], "names no args"),
    ):
        with pytest.raises(InvalidOption, match=words):
            job(registry=registry, name="w", redact=given)(code)  # type: ignore[arg-type]
