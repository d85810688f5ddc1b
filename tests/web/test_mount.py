"""The dashboard inside of other applications: under any prefix every link leads into it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Mount

from oban_sa import Oban
from oban_sa.web import Access, Dashboard
from tests.support import run_python
from tests.web.conftest import Web, failed

# Of a library that Litestar brings, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def fastapi(dashboard: Dashboard) -> Any:
    app = FastAPI()
    app.mount("/admin/oban", dashboard)
    return app


def starlette(dashboard: Dashboard) -> Any:
    return Starlette(routes=[Mount("/admin", routes=[Mount("/oban", app=dashboard)])])


def litestar(dashboard: Dashboard) -> Any:
    from litestar import Litestar

    return Litestar([dashboard.litestar("/admin/oban")])  # type: ignore[list-item]


def stripped(dashboard: Dashboard) -> Any:
    """Behind a proxy that takes the prefix away, as `uvicorn --root-path /admin/oban` is told of."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": "/admin/oban", "path": scope["path"].removeprefix("/admin/oban")}
        await dashboard(scope, receive, send)

    return app


@pytest.mark.parametrize("mount", [fastapi, starlette, litestar, stripped])
async def test_every_link_leads_into_it(web: Web, mount: Any) -> None:
    (job_id,) = await web.add(failed())
    app = mount(Dashboard(web.oban, access=lambda request: Access.all()))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")
    seen, todo = set[str](), ["/admin/oban/", f"/admin/oban/jobs/{job_id}"]
    while todo:
        path = todo.pop()
        if path in seen or len(seen) > 80:
            continue
        seen.add(path)
        answer = await client.get(path)
        # No job that has been discarded can be cancelled.
        assert answer.status_code == (400 if "verb=cancel" in path and "discarded" in path else 200), path
        if "html" in answer.headers["content-type"]:
            for link in re.findall(r'(?:href|src|action|hx-post|hx-sse:connect)="([^"]+)"', answer.text):
                assert link.startswith(("/admin/oban/", "#")), (path, link)
                if not link.startswith("#") and "/live" not in link and not link.endswith(("/jobs", "/bulk")):
                    todo.append(unescape(link))
    assert len(seen) > 15
    answer = await client.post("/admin/oban/jobs", data={"verb": "retry", "id": job_id})
    assert answer.headers["location"].startswith("/admin/oban/?")
    assert await web.states() == {job_id: "available"}


@pytest.mark.parametrize("mount", [lambda dashboard: dashboard, fastapi, litestar])
async def test_several_instances_have_a_part_of_the_address_each(engine: AsyncEngine, mount: Any) -> None:
    app = mount(Dashboard({"shop": Oban(engine), "ä b": Oban(engine, name="Other")}))
    prefix = "" if isinstance(app, Dashboard) else "/admin/oban"
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", follow_redirects=True)
    answer = await client.get(f"{prefix}/")
    assert answer.url.path == f"{prefix}/shop/"
    assert f'href="{prefix}/%C3%A4%20b/"' in answer.text
    answer = await client.get(f"{prefix}/%C3%A4%20b/queues")
    assert answer.status_code == 200
    assert f'href="{prefix}/%C3%A4%20b/nodes"' in answer.text
    assert f'href="{prefix}/shop/"' in answer.text


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['jinja2'] = None\nfrom oban_sa.web import Dashboard"
    done = run_python("-c", code)
    assert done.returncode == 1
    assert "pip install 'oban-sa[web]'" in done.stderr
