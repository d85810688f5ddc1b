"""The applications in `examples/`, started as their READMEs say, and used over HTTP."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from tests.databases import Databases
from tests.support import ROOT, Process, eventually, plain_url, process, run_python, sync_url

NAMES = {"fastapi_app": "fastapi uvicorn", "flask_app": "flask psycopg", "litestar_app": "litestar advanced_alchemy"}


def typed(name: str) -> list[str]:
    """The commands that a README tells to type."""
    page = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def the(name: str, beginning: str) -> str:
    """The first of them that begins so."""
    return next(command for command in typed(name) if command.startswith(beginning))


SERVERS = {
    "fastapi_app": the("fastapi_app", "uvicorn "),
    "flask_app": the("flask_app", "flask "),
    "litestar_app": the("litestar_app", "litestar "),
}
RUNNERS = {name: the(name, f"python -m oban_sa.runner --import examples.{name}.jobs ") for name in NAMES}


@dataclass
class Application:
    """A server on a port of its own, and what is said to it."""

    name: str
    url: str
    client: httpx.Client
    engine: Engine
    output: list[Process]

    def order(self, title: str, pages: int) -> httpx.Response:
        wanted: dict[str, Any] = {"title": title, "pages": pages}
        if self.name == "flask_app":
            return self.client.post("/reports", data=wanted)
        return self.client.post("/reports", json=wanted)

    def report(self, report_id: int) -> dict[str, Any]:
        answer = self.client.get(f"/reports/{report_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def idle(self) -> None:
        unfinished = "SELECT count(*) FROM oban_jobs WHERE state NOT IN ('completed', 'cancelled', 'discarded')"
        await eventually(lambda: self.value(unfinished) == 0, within=60)

    def value(self, statement: str) -> Any:
        with self.engine.connect() as connection:
            return connection.scalar(text(statement))

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def said(self) -> str:
        return "\n".join(each.output for each in self.output)


WAYS = ["fastapi_app embedded", "fastapi_app apart", "flask_app apart", "litestar_app embedded"]


@pytest.fixture(scope="module", params=WAYS)
def started(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Application]:
    """The application as its README starts it, with its runner inside or beside it; it must stop without complaint."""
    name, where = request.param.split()
    for module in NAMES[name].split():
        pytest.importorskip(module)
    with ExitStack() as stack:
        database_url = stack.enter_context(databases.fresh())
        env = {"OBAN_DATABASE_URL": plain_url(database_url), "RUNNER": where}
        made = run_python(*arguments(the(name, "python -m examples.")), env=env)
        assert made.returncode == 0, made.stderr
        server = stack.enter_context(process([*arguments(SERVERS[name]), "--port", "0"], env=env))
        output = [server]
        if where == "apart":
            output.append(stack.enter_context(process(arguments(RUNNERS[name]), env=env)))
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", asyncio.run(server.says("unning on http://", within=60)))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        engine = create_engine(sync_url(database_url))
        yield Application(name, url, client, engine, output)
        engine.dispose()
        for each in reversed(output):
            each.terminate()
            each.wait()
            assert "Traceback" not in each.output, each.output


@pytest.fixture
async def application(started: Application) -> Application:
    """The same, with nothing left of what other tests ordered."""
    await started.idle()
    started.execute("TRUNCATE reports, oban_jobs RESTART IDENTITY")
    return started


def arguments(command: str) -> list[str]:
    """A command as this Python runs it."""
    program, *words = shlex.split(command)
    return words if program == "python" else ["-m", program, *words]


async def test_a_report_is_ordered_watched_and_done(application: Application) -> None:
    answer = application.order("Sales", 6)
    assert answer.status_code == 201, application.said()
    assert answer.json() == {"id": 1, "title": "Sales", "state": "available", "progress": 0, "text": None}

    def halfway() -> bool:
        shown = application.report(1)
        assert shown["state"] != "completed", "nobody saw it work"
        return 0 < shown["progress"] < 100 and shown["state"] == "executing" and shown["text"] is None

    await eventually(halfway, within=30)
    await eventually(lambda: application.report(1)["state"] == "completed", within=30)
    shown = application.report(1)
    assert shown["progress"] == 100
    assert shown["text"].splitlines()[-1] == "This is page 6."
    assert application.value("SELECT args FROM oban_jobs") == {"report_id": 1, "pages": 6}
    assert application.value("SELECT meta->'progress' FROM oban_jobs") == 100
    assert application.value("SELECT attempt FROM oban_jobs") == 1


async def test_a_request_that_fails_after_enqueueing_leaves_neither_report_nor_job(application: Application) -> None:
    assert application.order("Sales", 1).status_code == 201
    answer = application.order("Sales", 1)
    assert answer.status_code == 409, application.said()
    assert "there is a report 'Sales' already" in answer.json().values()
    assert application.value("SELECT count(*) FROM reports") == 1
    assert application.value("SELECT count(*) FROM oban_jobs") == 1
    # It had been inserted: its sequence, which no rollback takes back, has gone on.
    assert application.value("SELECT nextval(pg_get_serial_sequence('oban_jobs', 'id'))") == 3
    assert application.client.get("/reports/7").status_code == 404


async def test_a_report_outlives_its_job(application: Application) -> None:
    application.order("Sales", 1)
    await application.idle()
    application.execute("DELETE FROM oban_jobs")
    shown = application.report(1)
    assert (shown["state"], shown["progress"], shown["text"]) == (None, 100, "This is page 1.")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the READMEs ask with curl, which is not here")
async def test_what_the_readme_asks_is_answered_as_it_says(application: Application) -> None:
    page = (ROOT / "examples" / application.name / "README.md").read_text(encoding="utf-8")
    asked = [command for command in typed(application.name) if command.startswith("curl ")]
    assert len(asked) == 3
    for command in asked:
        there = re.sub(r"localhost:\d+", application.url, command)
        done = await asyncio.to_thread(run_shell, f"{there} -sS")
        assert done.returncode == 0, done.stderr
        expected = page.partition(f"$ {command}\n")[2].splitlines()[0]
        assert steady(done.stdout) == steady(expected)


def run_shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def steady(answer: str) -> str:
    """An answer without what depends on how far the job is."""
    return re.sub(r'"progress":\d+|"state":"(available|executing)"', "", answer).strip()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_installs_what_it_imports(name: str) -> None:
    installed = the(name, "pip install ")
    for module in NAMES[name].split():
        assert module.replace("_", "-") in installed
