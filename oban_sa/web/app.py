"""`Dashboard`: the ASGI application."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeAlias, cast
from urllib.parse import quote

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from oban_sa.client import Oban
from oban_sa.client.read import TIMEOUT
from oban_sa.describe import printable
from oban_sa.errors import InvalidOption, JobNotFound, ObanError, SchemaError, WorkflowNotFound
from oban_sa.sql.errors import sqlstate
from oban_sa.web import static
from oban_sa.web.access import Rights, read_only
from oban_sa.web.guard import Guard
from oban_sa.web.instance import Instance
from oban_sa.web.live import MOST_VIEWERS, events
from oban_sa.web.page import Page, View, endpoint, message
from oban_sa.web.pages import bulk, crons, health, job, jobs, metrics, nodes, queues, workflows
from oban_sa.web.redact import Redact, masked

logger = logging.getLogger("oban_sa.web")

Given: TypeAlias = Oban | Mapping[str, Oban]

_TITLES: Final = {400: "That can't be", 403: "Not allowed", 404: "Not found", 405: "Not allowed"}


class Dashboard:
    """The dashboard of an `Oban`, or of several by name, as an ASGI application that any other can mount.

        app.mount("/oban", Dashboard(oban, access=rights))

    `access` answers for each request what its visitor may see and do, and may be a coroutine function; without it
    everybody may look and nobody act. `redact` answers what is shown of a job; `masked` hides what sounds secret.
    `allowed_hosts` are the names that it answers for, without ports, None for any: leave it to the application that
    mounts it. `allowed_origins` may send forms besides the dashboard's own, as where a proxy changes the Host header.
    Nothing is opened before the first request, and the engine stays the caller's.
    """

    def __init__(
        self,
        oban: Given,
        *,
        access: Rights = read_only,
        redact: Redact = masked,
        allowed_hosts: Collection[str] | None = None,
        allowed_origins: Collection[str] = (),
    ) -> None:
        rights: object = access
        if not callable(rights) or not _takes_one(rights):
            raise InvalidOption("access is a function of the request; write access=lambda request: Access.all(user)")
        obans = _named(oban)
        names = tuple(obans)
        self.instances: Final = [Instance.of(name, names, each, access, redact) for name, each in obans.items()]
        routes: list[BaseRoute]
        if names == ("",):
            routes = _routes(self.instances[0])
        else:
            first = quote(names[0])

            async def home(request: Request) -> Response:
                root: str = request.scope.get("root_path", "")
                return RedirectResponse(f"{quote(root.rstrip('/'))}/{first}/")

            routes = [Route("/", home, methods=["GET"])]
            routes += [Mount(f"/{each.name}", routes=_routes(each)) for each in self.instances]
        app = Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: _refused,
                ObanError: _refused_by_us,
                SQLAlchemyError: _database_failed,
                OSError: _database_failed,
                Exception: _failed,
            },
        )
        self._app: ASGIApp = Guard(app, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        await self._app(scope, receive, send)

    def litestar(self, path: str) -> object:
        """Return the dashboard as a handler of Litestar's, which mounts it at `path`.

        Litestar takes the path out of what a mounted application sees; links need it.
        """
        from litestar import asgi

        prefix = "/" + path.strip("/")

        async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
            root = scope.get("root_path", "").rstrip("/") + prefix
            below: str = scope["path"].strip("/")
            if below and scope.get("raw_path", b"").endswith(b"/"):  # Litestar adds a slash at the end of every path
                below += "/"
            await self({**scope, "root_path": root, "path": f"{root}/{below}"}, receive, send)

        return asgi(prefix, is_mount=True, copy_scope=True)(dashboard)


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin does not say what it takes
        return True
    return True


def _named(oban: Given) -> dict[str, Oban]:
    if isinstance(oban, Oban):
        return {"": oban}
    given: object = oban
    if isinstance(given, (Engine, AsyncEngine)):
        raise InvalidOption("Dashboard takes an Oban, got an engine; write Dashboard(Oban(engine))")
    if not isinstance(given, Mapping) or not given:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidOption(f"Dashboard takes an Oban, or several by name, {{'shop': oban}}; got {given!r:.80}")
    for name, each in cast("Mapping[object, object]", given).items():
        if not isinstance(name, str) or not name.strip() or "/" in name:
            raise InvalidOption(f"the name of an instance is part of its address, such as 'shop', got {name!r}")
        if not isinstance(each, Oban):
            raise InvalidOption(f"Dashboard takes several as {{'shop': Oban(engine)}}; {name!r} is {each!r:.80}")
    return dict(oban)


def _routes(instance: Instance) -> list[BaseRoute]:
    def get(path: str, view: View) -> Route:
        return Route(path, endpoint(instance, view), methods=["GET"])

    def post(path: str, view: View) -> Route:
        return Route(path, endpoint(instance, view), methods=["POST"])

    return [
        get("/", jobs.jobs),
        post("/jobs", jobs.act),
        get("/jobs/{id}", job.job),
        get("/jobs/{id}/raw", job.raw),
        get("/jobs/{id}/edit", job.edit),
        post("/jobs/{id}/edit", job.edit),
        get("/bulk", bulk.ask),
        post("/bulk", bulk.go_on),
        get("/queues", queues.queues),
        post("/queues", queues.act),
        get("/nodes", nodes.nodes),
        get("/crons", crons.crons),
        post("/crons", crons.act),
        get("/workflows", workflows.workflows),
        get("/workflows/{id}", workflows.workflow),
        post("/workflows/{id}", workflows.act),
        get("/metrics", metrics.metrics),
        get("/health", health.health),
        get("/live", _live),
        Route("/static/{hash}/{name}", static.serve, methods=["GET"]),
    ]


async def _live(page: Page) -> Response:
    live = page.instance.live
    if live.viewers >= MOST_VIEWERS:
        raise HTTPException(503, "Too many pages are open.")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(live), media_type="text/event-stream", headers=headers)


def _page(request: Request) -> Page | None:
    return cast("Page | None", request.scope.get("oban_sa.page"))


async def _refused(request: Request, error: Exception) -> Response:
    known = cast("HTTPException", error)
    title = _TITLES.get(known.status_code, "This did not work")
    return message(_page(request), status=known.status_code, title=title, text=known.detail, headers=known.headers)


async def _refused_by_us(request: Request, error: Exception) -> Response:
    if isinstance(error, (JobNotFound, WorkflowNotFound)):
        status, title = 404, "Not found"
    elif isinstance(error, SchemaError):
        status, title = 503, "The tables are not there"
    else:
        status, title = 400, "That can't be"
    return message(_page(request), status=status, title=title, text=printable.line(str(error)))


async def _database_failed(request: Request, error: Exception) -> Response:
    logger.warning("the dashboard's database failed: %s", error)
    page = _page(request)
    state = sqlstate(error) if isinstance(error, DBAPIError) else None
    title = "The database does not answer"
    if state == "57014":
        title = "This took too long"
        text = f"A statement took longer than {TIMEOUT:g} seconds and was ended. Ask for less, or again later."
    elif state in ("42P01", "3F000"):
        title = "The tables are not there"
        text = "There are no tables for jobs in this schema: run `python -m oban_sa migrate`, or your own migrations."
    elif state == "42501":
        title = "A right is missing"
        text = "The role of this connection lacks a right in the database; docs/grants.md lists them."
    elif isinstance(error, PoolTimeout):
        title = "No connection is free"
        text = "All connections of the engine's pool are in use. Ask again later."
    elif state is not None and state[:2] in ("23", "P0"):
        text = "A rule on your table refused it, so nothing was changed. The log says which."
        return message(page, status=409, title="Refused by the database", text=text)
    else:
        text = "The database could not be asked. The log says why; the page tries again when you reload it."
    return message(page, status=503, title=title, text=text)


async def _failed(request: Request, error: Exception) -> Response:
    return message(_page(request), status=500, title="This failed", text="The log of the application says why.")
