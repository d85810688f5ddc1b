"""`python -m oban_sa dashboard`: closed to other machines unless it asks for a password, and read-only unless told."""

from __future__ import annotations

import base64
import socket

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban
from oban_sa.cli.dashboard import PASSWORD, app
from tests.cli.conftest import Shell
from tests.support import eventually, plain_url, process


def client(made: object, base: str = "http://localhost:8431") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=made), base_url=base)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "give --user NAME"),
        (["--host", "192.168.1.4"], "listens on this machine alone"),
        (["--host", "jobs.example.com", "--actions"], "listens on this machine alone"),
        (["--user", "ops"], f"a password, in the variable {PASSWORD}"),
        (["--read-only"], "read-only already"),
    ],
)
def test_it_is_not_opened_by_mistake(shell: Shell, words: list[str], said: str) -> None:
    assert said in shell.refuses("dashboard", *words, code=2)


def test_a_password_without_a_user_and_other_mistakes_are_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "hush")
    assert "give both, or none" in shell.refuses("dashboard", code=2)
    assert "may act already" in shell.refuses("dashboard", "--user", "ops", "--actions", code=2)
    assert "without a colon" in shell.refuses("dashboard", "--user", "a:b", code=2)


def test_a_port_that_is_taken_is_refused_before_anything_is_said(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = shell.refuses("dashboard", "--port", str(port), code=2)
    assert f"nothing can listen at 127.0.0.1:{port}" in said
    assert "Try --port" in said


@pytest.mark.parametrize("acting", [True, False])
async def test_without_a_user_it_is_read_only_unless_actions_are_asked_for(engine: AsyncEngine, acting: bool) -> None:
    oban = Oban(engine)
    job = await oban.enqueue(Job("shop.Mail"))
    asked = client(app(oban, user=None, password=None, acting=acting))
    assert (await asked.get("/")).status_code == 200
    answer = await asked.post("/jobs", data={"verb": "cancel", "id": job.id})
    assert answer.status_code == (303 if acting else 403)
    assert (await oban.get_job(job)).state == ("cancelled" if acting else "available")


async def test_it_answers_for_its_own_names_alone(engine: AsyncEngine) -> None:
    made = app(Oban(engine), user=None, password=None, acting=True, hosts=("jobs.example.com:443",))
    for host, code in (("evil.example", 403), ("127.0.0.1:8431", 200), ("[::1]:8431", 200), ("jobs.example.com", 200)):
        assert (await client(made).get("/", headers={"Host": host})).status_code == code


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic !!!",
        "Bearer b3BzOmh1c2g=",
        "Basic " + base64.b64encode(b"ops:no").decode(),
        "Basic " + base64.b64encode(b"ops:hush ").decode(),
        "Basic " + base64.b64encode(b"root:hush").decode(),
        "Basic b3Bz\xe9",
    ],
)
async def test_with_a_user_nothing_is_served_without_the_password(
    engine: AsyncEngine, authorization: str | None
) -> None:
    asked = client(app(Oban(engine), user="ops", password="hush", acting=True))
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    for path in ("/", "/health", "/static/x/dashboard.css", "/live"):
        answer = await asked.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
    right = base64.b64encode(b"ops:hush").decode()
    answer = await asked.get("/", headers={"Authorization": f"Basic {right}"})
    assert answer.status_code == 200
    assert ">ops" in answer.text


async def test_a_real_process_serves_it_and_stops_while_a_page_is_open(database_url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("dashboard", "--port", str(port), "--database-url", plain_url(database_url))
    with process(["-m", "oban_sa", *words]) as running:
        said = await running.says("The dashboard is at", 60)
        assert f"http://127.0.0.1:{port}/ (open to this machine, read-only)" in said
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as asked:

            async def answers() -> bool:
                try:
                    return (await asked.get("/")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, 60)
            async with asked.stream("GET", "/live", timeout=60) as stream:
                async for line in stream.aiter_lines():
                    if line == "event: hello":
                        break
                running.interrupt()
                await running.ended(60)
        assert "Traceback" not in running.output
