"""Encrypted args stand nowhere in the clear: not in a row, a log, an event's text, an error, or a command."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import cast, literal, select, text
from sqlalchemy import types as sql
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Unique, enqueue, enqueue_select, job, ref
from oban_sa.cli import group
from oban_sa.client.encryption import Resealed
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, KeyMissing
from oban_sa.jobs import encryption
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.service import service
from oban_sa.settings.settings import load
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import eventually, plain_url

SECRET = "4929-5554-3321"


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


OLD, NEW = key(), key()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_keys", {})
    monkeypatch.setenv("OBAN_KEYS", OLD)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def harness(engine: AsyncEngine, sessions: Any, registry: Registry) -> Harness:
    return Harness(engine, sessions, registry)


@pytest.fixture
def done() -> list[Any]:
    return []


@pytest.fixture
def charge(registry: Registry, done: list[Any]) -> Any:
    @job(registry=registry, name="charge", encrypt=True, max_attempts=3, backoff=1000)
    async def charge(card: str, cents: Any = 1) -> None:
        done.append((card, cents))
        if cents == 13:
            raise ValueError(f"{card} was refused")

    return charge


async def test_each_way_in_writes_what_no_one_can_read_and_the_code_gets_the_value(
    harness: Harness, sessions: Any, engine: AsyncEngine, charge: Any, done: list[Any]
) -> None:
    oban = Oban(engine)
    async with sessions.begin() as session:
        parent = enqueue(session, Job("elsewhere", queue="elsewhere"))
        enqueue(session, charge.new(SECRET, 2))
        enqueue(session, charge.new(SECRET, ref(parent)))  # known only after the INSERT
        enqueue(session, Job("elsewhere", queue="elsewhere", id=77))  # so that the mapper writes them all
        await session.flush()
        enqueue(session, charge.new(SECRET, 3))
        await oban.enqueue_many([charge.new(SECRET, 4)], session=session)
    await oban.enqueue(charge.new(SECRET, 5))
    assert await oban.enqueue_many(charge.new(SECRET, number) for number in (6, 7)) == 2  # COPY
    rows = await harness.sql("SELECT args, meta FROM oban_jobs WHERE worker = 'charge'")
    assert len(rows) == 7
    for args, meta in rows:
        assert list(args) == ["data"]
        assert SECRET not in str(args)
        assert meta == {"encrypted": True}
    async with harness.runner(crontab=[CronEntry("* * * * * *", "charge", args={"card": SECRET, "cents": 8})]):

        async def all_done() -> None:
            assert {(SECRET, number) for number in (2, 3, 4, 5, 6, 7, 8, parent.id)} <= set(done)

        await eventually(all_done)
    assert await harness.sql(f"SELECT 1 FROM oban_jobs WHERE CAST(oban_jobs.* AS text) ~ '{SECRET}'") == []


async def test_the_mapper_writes_them_sealed_too(harness: Harness, sessions: Any, charge: Any) -> None:
    async with sessions.begin() as session:
        made = charge.options(id=4711).new(SECRET)
        session.add(made)
    [(args,)] = await harness.sql("SELECT args FROM oban_jobs")
    assert list(args) == ["data"]
    assert SECRET not in str(args)


async def test_old_keys_read_and_the_first_writes(
    harness: Harness, sessions: Any, engine: AsyncEngine, charge: Any, done: list[Any], monkeypatch: Any
) -> None:
    async with sessions.begin() as session:
        enqueue(session, charge.new("old"))
    monkeypatch.setattr(encryption, "_keys", {})
    Oban(engine, keys=[NEW, OLD])
    async with sessions.begin() as session:
        enqueue(session, charge.new("new"))
    rows = [row[0]["data"].partition(":")[0] for row in await harness.sql("SELECT args FROM oban_jobs ORDER BY id")]
    assert rows[0] != rows[1]
    async with harness.runner():

        async def both() -> None:
            assert sorted(card for card, _ in done) == ["new", "old"]

        await eventually(both)


async def test_an_unknown_key_fails_the_attempt_with_words_and_no_more_often_than_any_error(
    harness: Harness, sessions: Any, charge: Any, done: list[Any], monkeypatch: Any
) -> None:
    async with sessions.begin() as session:
        sealed = enqueue(session, charge.new(SECRET))
    monkeypatch.setattr(encryption, "_keys", {})
    monkeypatch.setenv("OBAN_KEYS", NEW)
    async with harness.runner():
        failed = await harness.becomes(sealed.id, "retryable")
        assert "which this process does not have; add it to OBAN_KEYS" in str(failed.errors[0]["error"])
        await harness.sql("UPDATE oban_jobs SET attempt = 2, state = 'available'")
        await harness.becomes(sealed.id, "discarded")
    assert done == []


async def test_args_that_were_moved_to_another_worker_s_row_are_not_read(
    harness: Harness, sessions: Any, charge: Any, registry: Registry, done: list[Any]
) -> None:
    @job(registry=registry, name="log", encrypt=True)
    async def log(card: str, cents: int) -> None:
        done.append("leaked")

    async with sessions.begin() as session:
        moved = enqueue(session, charge.new(SECRET))
    await harness.sql("UPDATE oban_jobs SET worker = 'log'")
    async with harness.runner():
        failed = await harness.becomes(moved.id, "retryable")
    assert "can't be decrypted" in str(failed.errors[0]["error"])
    assert done == []


async def test_neither_errors_logs_nor_commands_show_them(
    harness: Harness, sessions: Any, charge: Any, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="oban_sa")
    async with sessions.begin() as session:
        failing = enqueue(session, charge.new(SECRET, 13))
        wrong = enqueue(session, charge.new(SECRET))
        assert SECRET not in str(charge.new(SECRET))
    async with harness.runner():
        found = await harness.becomes(failing.id, "retryable")
        await harness.becomes(wrong.id, "completed")
    assert "ValueError: [redacted] was refused" in str(found.errors[0]["error"])
    assert SECRET not in caplog.text
    assert await harness.sql(f"SELECT 1 FROM oban_jobs WHERE CAST(oban_jobs.* AS text) ~ '{SECRET}'") == []
    where = ["--database-url", plain_url(database_url)]
    for words in (["jobs", "list"], ["jobs", "show", str(failing.id)], ["jobs", "show", str(failing.id), "--json"]):
        result = await asyncio.to_thread(CliRunner().invoke, group, [*words, *where])
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output


async def test_an_error_that_holds_them_otherwise_than_as_text_shows_none_in_the_log(
    harness: Harness, sessions: Any, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    @job(registry=registry, name="refused", encrypt=True)
    async def refused(card: str) -> None:
        raise ValueError([card])

    async with sessions.begin() as session:
        failing = enqueue(session, refused.new(SECRET))
    async with harness.runner():
        await harness.becomes(failing.id, "retryable")
    assert "ValueError: ['[redacted]']" in caplog.text
    assert caplog.text.count("refused failed after") == 1
    assert SECRET not in caplog.text


async def test_drain_and_perform_job_give_the_code_the_value(
    engine: AsyncEngine, sessions: Any, charge: Any, registry: Registry, done: list[Any]
) -> None:
    async with sessions.begin() as session:
        enqueue(session, charge.new("a"))
    await drain(engine, registry=registry)
    await perform_job(charge, {"card": "b"})
    assert [card for card, _ in done] == ["a", "b"]


def test_what_would_stand_in_the_clear_is_refused(registry: Registry) -> None:
    async def code(card: str) -> None: ...

    for options, words in (
        ({"unique": True}, "a hash of them, which can be guessed"),
        ({"partition": "args.card"}, "the key would stand in meta for all to read"),
        ({"sequence": "args.card"}, "the key would stand in meta for all to read"),
        ({"encrypt": "yes"}, "encrypt is True or False"),
    ):
        with pytest.raises(InvalidOption, match=words):
            job(registry=registry, name="w", **{"encrypt": True, **options})(code)  # type: ignore[call-overload]
    allowed = job(registry=registry, name="w", encrypt=True, unique=Unique(fields=["worker", "meta"], meta_keys=["k"]))(
        code
    )
    with pytest.raises(InvalidOption, match="which can be guessed"):
        allowed.options(unique=True).new("x")


async def test_a_select_is_refused(sessions: Any, charge: Any) -> None:
    async with sessions() as session:
        with pytest.raises(InvalidOption, match="which the database can't do to the rows of a select"):
            await enqueue_select(session, charge, select(cast(literal("x"), sql.Text).label("card")))


def test_without_a_key_or_with_a_wrong_one_nothing_is_made(charge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBAN_KEYS", "")
    with pytest.raises(KeyMissing, match="there is no key; set OBAN_KEYS"):
        charge.new(SECRET)
    monkeypatch.setenv("OBAN_KEYS", "hunter2")
    with pytest.raises(InvalidOption) as caught:
        charge.new(SECRET)
    assert "hunter2" not in str(caught.value)
    for given in ([], "text", [b"short"]):
        with pytest.raises(InvalidOption):
            encryption.use(given)


async def row(harness: Harness, job_id: int) -> tuple[Any, Any]:
    [found] = await harness.sql(f"SELECT args, meta FROM oban_jobs WHERE id = {job_id}")
    return tuple(found)


@pytest.mark.parametrize("how", ["one", "some", "a condition", "a session's own", "the session"])
async def test_changed_args_are_sealed_too(
    harness: Harness, charge: Any, registry: Registry, done: list[Any], how: str
) -> None:
    @job(registry=registry, name="plain")
    async def plain(card: str) -> None:
        done.append((card, 1))

    first, second, open_one = await harness.enqueue(charge.new("1"), charge.new("2"), plain.new("3"))
    oban, changes = Oban(harness.engine), {"args": {"card": SECRET}}
    if how == "one":
        changed = [await oban.update_job(each, changes) for each in (first, second, open_one)]
        assert all(encryption.is_sealed(each.args) for each in changed[:2])
    elif how == "some":
        assert await oban.update_jobs([first, second, open_one], changes=changes) == 3
    elif how == "a condition":
        assert await oban.update_jobs(Job.id <= open_one, changes=changes) == 3
    else:
        async with harness.sessions.begin() as session:
            if how == "the session":
                for each in await session.scalars(select(Job)):
                    await session.refresh(each)
                    each.args = {"card": SECRET}
            else:
                loaded = await session.get_one(Job, first)
                assert await oban.update_jobs(select(Job), changes=changes, session=session) == 3
                assert encryption.is_sealed(loaded.args)
    sealed = [(await row(harness, each))[0] for each in (first, second)]
    assert all(encryption.is_sealed(each) for each in sealed)
    assert sealed[0] != sealed[1]
    assert (await row(harness, open_one))[0] == {"card": SECRET}
    async with harness.runner():
        for each in (first, second, open_one):
            await harness.becomes(each, "completed")
    assert done == [(SECRET, 1)] * 3


async def test_a_session_seals_what_it_changes_of_a_job_that_it_has_loaded_only_in_part(
    harness: Harness, sessions: Any, charge: Any
) -> None:
    [job_id] = await harness.enqueue(charge.new("1"))
    async with sessions() as session:
        loaded = await session.get_one(Job, job_id)
        session.expire(loaded)
        loaded.args = {"card": SECRET}
        await session.commit()
        assert encryption.is_sealed((await row(harness, job_id))[0])
        with pytest.raises(InvalidArguments, match=r"can't hold ref\(\.\.\.\); write the value"):
            await session.run_sync(lambda sync: _refers(sync, job_id))


def _refers(session: Session, job_id: int) -> None:
    session.get_one(Job, job_id).args = {"card": ref(Job("w"))}
    session.flush()


async def test_a_change_that_would_leave_args_unreadable_is_refused(
    harness: Harness, charge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await harness.enqueue(charge.new(SECRET))
    oban, before = Oban(harness.engine), await row(harness, job_id)
    with pytest.raises(InvalidJob, match=r"could not be read without that in its meta"):
        await oban.update_job(job_id, {"meta": {"a": 1}})
    with pytest.raises(InvalidJob, match=r"are encrypted for charge, and no other worker reads them"):
        await oban.update_job(job_id, {"worker": "other"})
    monkeypatch.setattr(encryption, "_keys", {})
    monkeypatch.setenv("OBAN_KEYS", "")
    with pytest.raises(KeyMissing, match="there is no key; set OBAN_KEYS"):
        await oban.update_job(job_id, {"args": {"card": "7"}})
    assert await row(harness, job_id) == before
    await oban.update_job(job_id, {"priority": 3, "meta": {**before[1], "a": 1}})
    assert await row(harness, job_id) == (before[0], {**before[1], "a": 1})


async def test_args_and_worker_change_together(harness: Harness, charge: Any, registry: Registry, done: Any) -> None:
    @job(registry=registry, name="other", encrypt=True)
    async def other(name: str) -> None:
        done.append(name)

    [job_id] = await harness.enqueue(charge.new(SECRET))
    await Oban(harness.engine).update_job(job_id, {"worker": "other", "args": {"name": "ada"}})
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert done == ["ada"]


async def test_jobs_are_sealed_anew_so_that_the_old_key_can_be_taken_away(
    harness: Harness, charge: Any, registry: Registry, done: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(registry=registry, name="plain")
    async def plain(card: str) -> None: ...

    monkeypatch.setattr("oban_sa.client.encryption.LIMIT", 2)
    ids = await harness.enqueue(*(charge.new(str(number)) for number in range(5)), plain.new("open"))
    oban = Oban(harness.engine)
    untouched = await row(harness, ids[-1])
    assert await oban.reseal_jobs() == Resealed()
    oban = Oban(harness.engine, keys=[NEW, OLD])
    # Of another program; executing; and of a key that is not here.
    await harness.sql(f'UPDATE oban_jobs SET args = \'{{"card": "1"}}\' WHERE id = {ids[1]}')
    await harness.sql(f"UPDATE oban_jobs SET state = 'executing' WHERE id = {ids[2]}")
    lost = '{"data": "00000000:' + "A" * 40 + '"}'
    await harness.sql("UPDATE oban_jobs SET args = CAST(:args AS jsonb) WHERE id = :id", args=lost, id=ids[3])
    so_far: list[int] = []
    found = await oban.reseal_jobs(on_progress=lambda each: so_far.append(each.resealed))
    assert found == Resealed(resealed=3, left=1, unreadable=(ids[3],))
    assert so_far == [2, 2, 3]
    assert await row(harness, ids[-1]) == untouched
    async with harness.sessions.begin() as session:
        await session.execute(text(f"SELECT FROM oban_jobs WHERE id = {ids[2]} FOR UPDATE"))
        assert await oban.reseal_jobs() == Resealed(left=1, unreadable=(ids[3],))
    await harness.sql("UPDATE oban_jobs SET state = 'available' WHERE state = 'executing'")
    assert (await oban.reseal_jobs()).resealed == 1
    monkeypatch.setattr(encryption, "_keys", {})
    monkeypatch.setenv("OBAN_KEYS", NEW)
    async with harness.runner():
        for each in (*ids[:3], ids[4]):
            await harness.becomes(each, "completed")
    assert sorted(card for card, _ in done) == ["0", "1", "2", "4"]


async def test_the_command_reseals_with_the_keys_of_a_file(
    harness: Harness, database_url: str, charge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await harness.enqueue(charge.new("1"), charge.new("2"))
    file = tmp_path / "keys"
    file.write_text(f"# the newest first\n{NEW}\n\n  {OLD}\n")
    monkeypatch.delenv("OBAN_KEYS")
    monkeypatch.setenv("OBAN_KEYS_FILE", str(file))
    monkeypatch.setattr(encryption, "_keys", {})

    def says(*more: str) -> Any:
        flags = ["jobs", "reseal", "--database-url", plain_url(database_url), *more]
        return CliRunner().invoke(group, flags)

    assert (await asyncio.to_thread(says)).output == "2 jobs encrypted with the newest key.\n"
    assert json.loads((await asyncio.to_thread(says, "--json")).stdout) == {"resealed": 0, "left": 0, "unreadable": []}
    args = (await row(harness, ids[0]))[0]
    assert args["data"].startswith(f"{encryption.newest()}:")
    lost = '{"data": "00000000:' + "A" * 40 + '"}'
    await harness.sql("UPDATE oban_jobs SET args = CAST(:args AS jsonb)", args=lost)
    refused = await asyncio.to_thread(says)
    assert refused.exit_code == 1
    assert f"no key that is given reads 2 jobs: {ids[0]}, {ids[1]}; give the older keys too" in refused.output


def test_a_file_with_keys_is_read_and_what_is_none_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{NEW}\nhunter2\n")
    with pytest.raises(InvalidOption, match="key 2 of OBAN_KEYS") as refused:
        encryption.use_file(file)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidOption, match="the file with keys can't be read: FileNotFoundError"):
        encryption.use_file(tmp_path / "none")
    file.write_text(f"{OLD}\n")
    monkeypatch.delenv("OBAN_KEYS")
    monkeypatch.setenv("OBAN_KEYS_FILE", str(file))
    encryption.check()


def test_a_runner_takes_the_keys_of_a_file_for_its_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(NEW)
    monkeypatch.setenv("OBAN_KEYS_FILE", "nowhere")
    service.take_keys(load(flags={"keys_file": str(file)}))
    assert os.environ["OBAN_KEYS_FILE"] == str(file)
    assert encryption.seal("w", {})["data"].startswith(f"{encryption.newest()}:")
