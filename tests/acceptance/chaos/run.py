"""One run: a server, runners, enqueuers and faults for a while; then quiet; then all of it goes into a folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.acceptance.chaos import audit, ledger
from tests.acceptance.chaos.enqueuing import Crowd
from tests.acceptance.chaos.herd import DEAD_AFTER, Herd
from tests.acceptance.chaos.nursery import Nursery
from tests.acceptance.chaos.plan import Plan
from tests.acceptance.chaos.proxy import COMMIT, Cutting, CuttingProxy, proxied
from tests.acceptance.chaos.scene import FLOWS, JOBS, Scene
from tests.databases import migrate
from tests.ownserver import OwnServer

QUIET: Final = 45.0
"""Seconds without any fault and without any progress after which a job counts as lost; rows that a lost answer left
behind are looked for every half minute."""

_DURABLE: Final = text("SELECT current_setting('fsync'), current_setting('synchronous_commit')")


async def run(plan: Plan, folder: Path, *, mutants: Sequence[str] = (), quiet: float = QUIET) -> None:
    """Do what the plan says and leave everything that the checker needs in `folder`."""
    scene = FLOWS if plan.kind == "flows" else JOBS
    for name in ("ledger", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({**plan.as_json(), "mutants": list(mutants)}, indent=1))
    os.environ[ledger.FOLDER] = str(folder / "ledger")
    server = OwnServer(_reachable(folder))
    await asyncio.to_thread(server.start)
    try:
        await asyncio.to_thread(migrate, server.url)
        async with _engine(server.url) as engine:
            async with engine.begin() as connection:
                # Else a crash of the server would lose what it said was committed.
                assert (await connection.execute(_DURABLE)).one() == ("on", "on")
                if plan.beside:
                    await connection.execute(text(audit.KIN))
                for statement in (*scene.tables, *audit.STATEMENTS):
                    await connection.execute(text(statement))
            await _storm(plan, scene, folder, server, engine, mutants, quiet)
            await _keep(folder, scene, engine)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
        for path in logs_of_server(folder):
            for line in path.read_text(errors="replace").splitlines():
                if "deadlock detected" in line:
                    ledger.write("deadlock", text=line)


def logs_of_server(folder: Path) -> list[Path]:
    """What PostgreSQL has said in a run, while its data are there."""
    return [path for path in (folder / "server").rglob("log") if path.is_file()]


async def _storm(
    plan: Plan, scene: Scene, folder: Path, server: OwnServer, engine: AsyncEngine, mutants: Sequence[str], quiet: float
) -> None:
    async with AsyncExitStack() as stack:
        proxies: list[CuttingProxy] = []

        async def way(name: str) -> CuttingProxy:
            draw = random.Random(f"proxy {plan.seed} {name}")
            proxies.append(await stack.enter_async_context(proxied(server.url, draw=draw)))
            return proxies[-1]

        lossy = await way("enqueuers")
        lossy.cutting = Cutting(("before", "amid", "after"), 0.08, only=COMMIT)
        enqueuing = await stack.enter_async_context(_engine(lossy.url))
        nursery = await stack.enter_async_context(Nursery({ledger.FOLDER: str(folder / "ledger")}))
        herd = Herd(plan.runners, nursery, way, folder / "logs", scene.queues, scene.jobs, mutants)
        crowd = Crowd()
        people = scene.people(plan.seed, crowd, enqueuing, engine)
        faults = people.faults(herd=herd, server=server, engine=engine, draw=random.Random(f"faults {plan.seed}"))
        watching = asyncio.create_task(herd.watch())
        counting = asyncio.create_task(crowd.count(engine))
        lasting = [asyncio.create_task(each) for each in people.lasting]
        try:
            await _up(herd)
            async with asyncio.TaskGroup() as group:
                for each in people.enqueuing:
                    group.create_task(each)
                await faults.run(plan.faults, seconds=plan.seconds)
                crowd.over = True
            await _quiet(engine, scene.left, quiet)
            await _buried(engine, herd)
            await herd.end(30)
        finally:
            for task in (watching, counting, *lasting):
                task.cancel()
            ended = await asyncio.gather(watching, counting, *lasting, return_exceptions=True)
            cuts = sum((proxy.cuts for proxy in proxies), start=type(lossy.cuts)())
            (folder / "counts.json").write_text(json.dumps({"faults": faults.counts, "cuts": cuts}))
    for error in ended:
        if isinstance(error, Exception):  # of this program, and no finding
            raise error


async def _up(herd: Herd) -> None:
    """Wait until every runner works: how long they take to start is the machine's, and no part of the plan."""
    async with asyncio.timeout(120):
        while len(herd.working) < herd.slots:  # noqa: ASYNC110 - it is looked for, not told
            await asyncio.sleep(0.05)


async def _quiet(engine: AsyncEngine, left: TextClause, quiet: float) -> None:
    """Wait until every job has ended, or until nothing has changed for so long."""
    last, since = None, time.monotonic()
    # A job that goes round and round is lost as well.
    until = since + 4 * quiet
    while time.monotonic() < until:
        async with engine.connect() as connection:
            row = (await connection.execute(left)).one()
        if row.left == 0:
            return
        if row.last != last:
            last, since = row.last, time.monotonic()
        # What a node that lives has begun may take long on a busy machine, as the start of a process does.
        if time.monotonic() - since > (3 * quiet if row.held else quiet):
            return
        await asyncio.sleep(0.25)


async def _buried(engine: AsyncEngine, herd: Herd) -> None:
    """Wait, but not for ever, until the rows of the dead are gone, and write down which are not."""
    until = time.monotonic() + 4 * DEAD_AFTER
    while True:
        living = {life.node for life in herd.lives if not life.over}
        async with engine.connect() as connection:
            rows = (await connection.execute(text("SELECT node, queue, uuid::text FROM oban_producers"))).all()
        left = [row for row in rows if row.node not in {*living, audit.KIN_NODE}]
        if not left or time.monotonic() > until:
            break
        await asyncio.sleep(0.25)
    for row in left:
        ledger.write("unburied", node=row.node, queue=row.queue, holder=row.uuid)


async def _keep(folder: Path, scene: Scene, engine: AsyncEngine) -> None:
    # The difference between the database's clock and the machine's monotonic one, in which everything else is told.
    offset = time.time() - time.monotonic()
    async with engine.connect() as connection:
        for name, question in scene.questions.items():
            rows = (await connection.execute(text(question))).mappings().all()
            with (folder / f"{name}.jsonl").open("w") as file:
                for row in rows:
                    said: dict[str, Any] = dict(row)
                    if "at" in said:
                        said["at"] -= offset
                    file.write(json.dumps(said) + "\n")


@asynccontextmanager
async def _engine(url: str) -> AsyncGenerator[AsyncEngine]:
    made = create_async_engine(
        url, pool_pre_ping=True, connect_args={"ssl": False, "timeout": 5, "command_timeout": 60}
    )
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            await made.dispose()


def _reachable(folder: Path) -> Path:
    # As root the server runs under another account, which has to get through to its data.
    folder.chmod(0o755)
    return folder / "server"
