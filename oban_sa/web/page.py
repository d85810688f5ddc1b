"""A request for a page, with what every page needs: the instance, the visitor's rights, links, and templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from oban_sa.describe.spans import count, exact
from oban_sa.schedule import clock
from oban_sa.web import words
from oban_sa.web.access import Access, ask
from oban_sa.web.instance import Instance
from oban_sa.web.static import fingerprint

NAVIGATION: Final = (
    ("", "Jobs", "g j"),
    ("queues", "Queues", "g q"),
    ("nodes", "Nodes", "g n"),
    ("crons", "Crons", "g c"),
    ("workflows", "Workflows", "g w"),
    ("metrics", "Metrics", "g m"),
    ("health", "Health", "g h"),
)
"""The pages that are linked from all: path, title and keys."""


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "number": words.number,
        "line": words.line,
        "block": words.block,
        "plain": words.plain,
        "when": words.when,
        "exact": exact,
        "duration": words.duration,
        "short": words.short,
        "summary": words.summary,
        "frames": words.frames,
        "commands": words.commands,
        "counted": count,
    }
    for name, function in filters.items():
        made.filters[name] = function
    return made


_templates: Final = _environment()


@dataclass(frozen=True, slots=True)
class Page:
    """A request of a visitor for a page of an instance."""

    request: Request
    instance: Instance
    access: Access

    @property
    def root(self) -> str:
        """What all paths of this instance begin with, as the browser has them; without a slash at the end."""
        return quote(self._root)

    @property
    def _root(self) -> str:
        root: str = self.request.scope.get("root_path", "")
        return root.rstrip("/")

    @property
    def home(self) -> str:
        """The same for the whole dashboard."""
        return self.root.removesuffix("/" + quote(self.instance.name)) if self.instance.name else self.root

    def link(self, path: str = "", /, **query: object) -> str:
        """Return a link to a page; what is None or empty is left out of the query."""
        given = [(key, str(value)) for key, value in query.items() if value not in (None, "")]
        return f"{self.root}/{path}" + (f"?{urlencode(given)}" if given else "")

    def asset(self, name: str) -> str:
        """Return a link to a file that pages need."""
        return f"{self.root}/static/{fingerprint(name)}/{name}"

    def render(
        self, template: str, *, title: str, status: int = 200, now: datetime | None = None, **context: object
    ) -> Response:
        """Return a page made of a template; `now` is the time by the database's clock."""
        shared: dict[str, object] = {
            "page": self,
            "access": self.access,
            "instance": self.instance,
            "link": self.link,
            "asset": self.asset,
            "since": words.since,
            "moment_of": words.moment_of,
            "navigation": NAVIGATION,
            "title": title,
            "now": now or clock.now(),
            "here": self.here,
            "flash": "",
        }
        return HTMLResponse(_templates.get_template(template).render({**shared, **context}), status_code=status)

    @property
    def here(self) -> str:
        """The path of this page below the instance's."""
        path: str = self.request.scope["path"]
        below = path.removeprefix(self._root)
        return below.strip("/")

    def redirect(self, path: str, **query: object) -> Response:
        """Send the browser to a page of this instance, by GET."""
        return RedirectResponse(self.link(path, **query), status_code=303)


View: TypeAlias = Callable[[Page], Awaitable[Response]]


def endpoint(instance: Instance, view: View) -> Callable[[Request], Awaitable[Response]]:
    """Return the ASGI endpoint of a page, which asks first what the visitor may do."""

    async def serve(request: Request) -> Response:
        access = await ask(instance.rights, request)
        request.scope["oban_sa.page"] = page = Page(request, instance, access)
        if not access.view:
            raise HTTPException(403, "You may not look at this dashboard.")
        return await view(page)

    return serve


def message(
    page: Page | None, *, status: int, title: str, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page that says one thing; plain text where it is not known whose page it is."""
    if page is None or not page.access.view:
        body = _templates.get_template("bare.html").render({"title": title, "text": text})
        return HTMLResponse(body, status_code=status, headers=dict(headers or {}))
    return page.render("message.html", title=title, status=status, text=text, now=datetime.now(UTC))
