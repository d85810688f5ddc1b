"""The supervisor of several runners, with runners that do as a test needs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from oban_sa.service import member as supervised
from oban_sa.service.member import Member, Unusable
from oban_sa.service.supervisor import Supervisor
from oban_sa.settings.settings import Settings
from tests.support import eventually

FORGETFUL = """
import pathlib, socket, sys
lives = pathlib.Path(__file__).with_suffix(".lives")
lives.write_text((lives.read_text() if lives.exists() else "") + "x")
"""


class Program:
    """What is started instead of a runner; it leaves a mark each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def does(self, code: str) -> None:
        self._path.write_text(FORGETFUL + code)

    @property
    def lives(self) -> int:
        return len(self._path.with_suffix(".lives").read_text())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(supervised, "MODULE", "forgetful")
    return Program(tmp_path / "forgetful.py")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After how many failures somebody waits; the pauses themselves are short."""
    asked: list[int] = []

    def retrying(attempt: int) -> float:
        asked.append(attempt)
        return 0.01

    monkeypatch.setattr(supervised.backoff, "retrying", retrying)
    return asked


def member(**settings: object) -> Member:
    made = Settings(node="web.1", **settings)  # type: ignore[arg-type]
    return Member(made, queues=["default"], stopping=asyncio.Event(), at_once=asyncio.Event())


async def test_pauses_grow_while_a_runner_keeps_dying(
    program: Program, pauses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    program.does("sys.exit(3)")
    one = member()
    living = asyncio.create_task(one.live())
    await eventually(lambda: len(pauses) >= 3, 30)
    one._stopping.set()
    await living
    assert pauses[:3] == [3, 4, 5]
    assert "the runner web.1 ended with exit code 3; it is started again in 10 ms" in caplog.text


async def test_pauses_begin_anew_for_one_that_lived_a_while(
    program: Program, pauses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "STEADY", -1.0)
    program.does("sys.exit(3)")
    one = member()
    living = asyncio.create_task(one.live())
    await eventually(lambda: len(pauses) >= 3, 30)
    one._stopping.set()
    await living
    assert set(pauses) == {3}


async def test_a_runner_that_refuses_its_settings_is_not_started_again_and_all_are_stopped(program: Program) -> None:
    program.does("sys.exit(2)")
    with pytest.raises(Unusable):
        await member().live()
    assert program.lives == 1
    settings = Settings()
    assert await Supervisor(settings, [settings, settings]).run() == 2


async def test_a_job_that_ends_its_runner_with_that_code_is_no_refusal(program: Program, pauses: list[int]) -> None:
    program.does(
        "channel = socket.socket(fileno=0)\n"
        'channel.sendall(b\'{"started": true, "health": null}\\n\')\n'
        "channel.recv(100)\n"
        "sys.exit(2)"
    )
    one = member()
    living = asyncio.create_task(one.live())
    await eventually(lambda: len(pauses) >= 2, 30)
    one._stopping.set()
    await living


async def test_a_runner_that_has_nothing_left_to_do_is_not_started_again(program: Program) -> None:
    program.does("")
    await member(until_idle=True).live()
    assert program.lives == 1


async def test_one_that_ends_without_being_asked_is_started_again(
    program: Program, pauses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    program.does("")
    one = member()
    living = asyncio.create_task(one.live())
    await eventually(lambda: len(pauses) >= 2, 30)
    one._stopping.set()
    await living
    assert "the runner web.1 ended with exit code 0; it is started again" in caplog.text
