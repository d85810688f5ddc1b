"""The fenced blocks of the README and of every page of docs/, and which test runs those of a page.

A block that can't run has an HTML comment right before it: `<!-- not run: why -->`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Final

from tests.support import ROOT

EVERY: Final = (
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
"""Every page, the README first, as its path below the repository."""

STORY: Final = (
    "README.md",
    *(f"docs/{page}.md" for page in ("workers", "enqueueing", "runner", "migrations", "fastapi", "flask", "celery")),
)
"""What a newcomer reads, in this order: each needs what those before it have defined. `test_readme` runs it."""

ELSEWHERE: Final = {"docs/testing.md": "tests/testing/test_documentation.py"}
"""Pages that a test of their own runs."""

_BLOCK = re.compile(
    r"^(?P<mark><!-- not run.*?-->\n)?```(?P<language>.*?)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_REASON = re.compile(r"<!-- not run: (.+) -->")
_FILE = re.compile(r"# ([\w/]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run, and is empty where a mark gives none."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def runs(self) -> bool:
        return self.reason is None

    @property
    def file(self) -> str | None:
        """The name in the first line of a block that is a file of its own."""
        named = _FILE.match(self.text)
        return named[1] if named else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return every block of a page, in order."""
    text = read(page)
    found = []
    for each in _BLOCK.finditer(text):
        said = _REASON.match(each["mark"] or "")
        reason = None if each["mark"] is None else said[1] if said else ""
        line = text.count("\n", 0, each.start("language")) + 1
        found.append(Block(page, line, each["language"], each["text"], reason))
    return found


PROGRAMS: Final = tuple(
    page
    for page in EVERY
    if page not in (*STORY, *ELSEWHERE) and any(each.language == "python" and each.runs for each in blocks(page))
)
"""Pages whose Python is a program of its own, in its order: all others that have some. `test_pages` runs them."""


def pieces(page: str) -> list[str]:
    """Return the Python of a page in pieces: the names that it takes for granted, then its blocks that run."""
    texts = [block.text for block in blocks(page) if block.language == "python" and block.runs]
    found: list[str] = []
    for text in [textwrap.dedent(_GIVEN.get(page, "")), *texts]:
        # What a block declares stands apart, so that its tables can be made before they are used.
        declared, within, used = text.partition("\n\n\nasync with")
        found += [declared, within + used]
    return [piece for piece in found if piece.strip()]


_GIVEN: Final = {
    "docs/announcements.md": """
        session = sessions()
        """,
    "docs/control.md": """
        from collections.abc import Iterator
        from dataclasses import dataclass

        from oban_sa import Job, Worker, worker

        order_id = 7
        ids = range(3)


        @dataclass
        class Order:
            id: int
            cancelled: bool = False


        order = Order(order_id)


        @worker(queue="mailers")
        class SendWelcome(Worker):
            async def process(self, job: Job) -> None: ...


        def parts(path: str) -> Iterator[str]:
            yield path


        async def import_part(part: str) -> None: ...


        async with sessions.begin() as session:
            session.add_all([Job("given", id=number) for number in (7, 8)])
        """,
    "docs/cron.md": """
        from oban_sa import job


        @job(name="myapp.jobs.CleanUp")
        async def clean_up() -> None: ...
        """,
    "docs/dashboard.md": """
        from oban_sa import Oban

        oban = Oban(engine)
        billing = Oban(engine, name="Billing")
        """,
    "docs/middleware.md": """
        from typing import Any

        from oban_sa import Job
        from oban_sa.workers.middleware import CallNext


        class RateLimited(Exception):
            retry_after = 60


        async def report_errors(job: Job, call_next: CallNext) -> Any:
            return await call_next(job)


        def current_traceparent() -> str:
            return "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        """,
    "docs/pruning.md": """
        from typing import Any

        from sqlalchemy.dialects.postgresql import JSONB
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


        class Base(DeclarativeBase):
            pass


        class Archived(Base):
            __tablename__ = "archived"

            id: Mapped[int] = mapped_column(primary_key=True)
            worker: Mapped[str]
            args: Mapped[dict[str, Any]] = mapped_column(JSONB)
        """,
    "docs/sentry.md": """
        import warnings

        # The SDK imports whatever else is installed that it knows, which may warn of itself.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        """,
}
