"""`python -m examples.codeindex`: index the standard library, or a folder of your own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import click
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from examples.codeindex import screen
from examples.codeindex.flow import workflow
from examples.codeindex.indexing import Asked, Contents, Sessions, ask, contents, failures, indexed, last_report
from examples.codeindex.models import Base
from oban_sa import Oban, embedded, enqueue
from oban_sa.errors import ObanError

PROJECT = Path(__file__).resolve().parents[2]
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=STANDARD_LIBRARY)
@click.option("--database-url", metavar="URL", help="A PostgreSQL to use; by default a private one in ./.oban.")
@click.option(
    "--workflow", "as_workflow", is_flag=True, help="As a workflow that lists the files itself: only new ones."
)
def command(folder: Path, database_url: str | None, *, as_workflow: bool) -> None:
    """Index the functions and classes of all Python files in FOLDER, by default Python's own standard library.

    What is installed in site-packages is left out. Running it again looks only at what has changed.
    """
    root = folder.resolve()
    try:
        if database_url is not None:
            work(root, database_url, as_workflow=as_workflow)
        else:
            with embedded.start(PROJECT / ".oban") as server:
                screen.say(f"A private PostgreSQL {server.version} runs in {server.data}")
                work(root, server.url, as_workflow=as_workflow)
    except ObanError as error:
        raise click.ClickException(str(error)) from error
    except SQLAlchemyError as error:
        raise click.ClickException(f"the database failed: {getattr(error, 'orig', None) or error}") from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped; what is done is kept, and running it again does the rest") from None


def work(root: Path, url: str, *, as_workflow: bool) -> None:
    """Do everything, in the order in which an application would."""
    # 1. The tables that jobs live in. An application with migrations of its own has one line there instead.
    migrate = (sys.executable, "-m", "oban_sa", "migrate")
    if subprocess.run(migrate, env=environment(url), cwd=PROJECT, check=False).returncode:
        sys.exit(1)  # it has said why
    started = time.monotonic()
    # 2. Enqueue, and 3. have a runner, in a process of its own, do the work.
    asked, held, failed = asyncio.run(indexed_by_a_runner(root, url, as_workflow=as_workflow))
    seconds = time.monotonic() - started
    report(root, asked, held, failed)
    rate = int(asked.jobs / seconds)
    screen.say(
        f"files={held.files} symbols={held.symbols} refused={len(held.refused)} "
        f"seconds={seconds:.1f} jobs_per_second={rate}"
    )
    if failed:
        sys.exit(1)


async def indexed_by_a_runner(
    root: Path, url: str, *, as_workflow: bool
) -> tuple[Asked, Contents, list[tuple[str, str]]]:
    """Enqueue what there is to do, watch a runner do it, and return what came of it."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        if as_workflow:
            asked = await run_workflow(engine, sessions, root, url)
            return asked, await contents(sessions, root), await failures(sessions, root)
        screen.say(f"Looking for Python files in {root}")
        asked = await ask(sessions, root)
        screen.say(f"Files to index: {asked}")
        if asked.jobs:
            await run_jobs(sessions, root, url, "examples.codeindex.jobs")
            said = await last_report(sessions, root)
            screen.say(f"The batch is over; its callback reports: {said}")
        return asked, await contents(sessions, root), await failures(sessions, root)
    finally:
        await engine.dispose()


async def run_workflow(engine: AsyncEngine, sessions: Sessions, root: Path, url: str) -> Asked:
    """Enqueue the workflow, and watch a runner do all of it, the search for files too."""
    flow = workflow(root)
    async with sessions.begin() as session:
        enqueue(session, flow)
    screen.say(flow.mermaid())
    await run_jobs(sessions, root, url, "examples.codeindex.flow")
    status = await Oban(engine).workflow(flow)
    screen.say(
        f"The workflow is {status.state}: of {status.total} members {status.completed} were completed and "
        f"{status.cancelled} cancelled. Its last one reports: {await last_report(sessions, root)}"
    )
    return Asked(new=status.subs["files"].total)


async def run_jobs(sessions: Sessions, root: Path, url: str, module: str) -> None:
    """Start a runner that leaves once everything is done, and show how far it is."""
    limit = 2 * (os.cpu_count() or 1)
    arguments = ("--until-idle", "--import", module, "--queues", f"codeindex:{limit}")
    screen.say(f"$ python -m oban_sa.runner {' '.join(arguments)}")
    runner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oban_sa.runner", *arguments, "--log-level", "warning"),
        env=environment(url),
        cwd=PROJECT,
    )
    try:
        with screen.bar() as bar:
            ended = asyncio.ensure_future(runner.wait())
            while not ended.done():
                bar.show(*await indexed(sessions, root))
                await asyncio.wait([ended], timeout=0.2)
            bar.show(*await indexed(sessions, root))
    finally:
        # On the way out after Ctrl-C, which the runner got too: it gives back what it is working on.
        if runner.returncode is None:
            runner.terminate()
            await runner.wait()
    if runner.returncode:
        raise click.ClickException(f"the runner failed with exit code {runner.returncode}, see above")


def report(root: Path, asked: Asked, held: Contents, failed: list[tuple[str, str]]) -> None:
    """Print what the index holds."""
    screen.say("")
    screen.table("Symbols", [*held.kinds.items(), ("together", held.symbols)])
    screen.table("Files with most of them", held.largest)
    screen.table("Files that were refused", held.refused)
    screen.table("Files that could not be indexed", failed)
    screen.say("")
    if not asked.jobs and not asked.removed:
        screen.say(f"Nothing has changed: the index of {root} was up to date.")


def environment(url: str) -> dict[str, str]:
    """This process's environment with the database in it: in the arguments everyone could read its password."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OBAN_")}
    return {**kept, "OBAN_DATABASE_URL": url}


if __name__ == "__main__":
    command(prog_name="python -m examples.codeindex")
