"""The web applications in `examples/web` do what they show."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from examples.web import fastapi_app, flask_app
from examples.web.models import User
from oban_sa import Job
from tests.support import eventually, process, sync_url


def both(engine: Engine) -> tuple[int, int]:
    with Session(engine) as session:
        users = session.scalar(select(func.count()).select_from(User))
        jobs = session.scalar(select(func.count()).select_from(Job))
    assert users is not None
    assert jobs is not None
    return users, jobs


async def test_fastapi_signs_up_and_its_runner_welcomes(
    database_url: str, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBAN_DATABASE_URL", sync_url(database_url))
    transport = httpx.ASGITransport(fastapi_app.app)
    async with (
        fastapi_app.app.router.lifespan_context(fastapi_app.app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        made = await client.post("/users", params={"email": "ada@example.com"})
        assert made.status_code == 201, made.text

        async def welcomed() -> bool:
            user = (await client.get(f"/users/{made.json()['user']}")).json()
            job = (await client.get(f"/jobs/{made.json()['job']}")).json()
            return bool(user["welcomed"]) and job["state"] == "completed"

        await eventually(welcomed)
        again = await client.post("/users", params={"email": "ada@example.com"})
        assert again.status_code == 409
        assert (await client.get("/jobs/0")).status_code == 404
    assert both(sync_engine) == (1, 1)


async def test_flask_signs_up_and_a_runner_beside_it_welcomes(
    database_url: str, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBAN_DATABASE_URL", sync_url(database_url))
    app = flask_app.create_app()
    client = app.test_client()
    made = client.post("/users", data={"email": "grace@example.com"})
    assert made.status_code == 201, made.text
    assert client.post("/users", data={"email": "grace@example.com"}).status_code == 409
    assert client.get("/jobs/0").status_code == 404
    assert both(sync_engine) == (1, 1)

    runner = ["-m", "oban_sa.runner", "--import", "examples.web.jobs", "--queues", "mailers:5", "--until-idle"]
    with process(runner, env={"OBAN_DATABASE_URL": sync_url(database_url)}) as running:
        assert await running.ended() == 0, running.output
    assert client.get(f"/users/{made.json['user']}").json == {"email": "grace@example.com", "welcomed": True}
    assert client.get(f"/jobs/{made.json['job']}").json["state"] == "completed"
    app.extensions["engine"].dispose()
