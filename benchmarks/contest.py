"""Turns, one after another and interleaved round by round, on one server."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import asyncpg
from sqlalchemy import make_url

from benchmarks import filling, gauges
from benchmarks.environments import ROOT
from benchmarks.ground import migrated
from benchmarks.scenarios import Scenario
from benchmarks.turn import percentile

WITHIN, QUICKLY = 300.0, 60.0
"""Seconds after which a turn is given up; and a turn of a quick run."""
ENDING = 60.0
"""Seconds for checking and going away, after a turn's work is done."""


class Refused(Exception):
    """A turn that gave no figure, and why."""


@dataclass
class Taken:
    """What the turns of one contender gave, a value for each round; `samples` are of all rounds together."""

    values: dict[str, list[float]] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    jobs: int = 0
    refused: list[str] = field(default_factory=list)

    def add(self, answer: dict[str, Any], scenario: Scenario) -> None:
        """Take what one turn answered."""
        jobs, seconds = answer["jobs"], answer["seconds"]
        self.jobs = jobs
        found = {"memory_mb": answer["memory_mb"], "statements": answer.get("statements")}
        if scenario.measures == "spent":
            found["python_us_per_s"] = answer["cpu"] / seconds * 1e6
            found["postgres_us_per_s"] = None if answer["pg_cpu"] is None else answer["pg_cpu"] / seconds * 1e6
            found["commits_per_s"] = answer["commits"] / seconds
        elif scenario.measures == "rate":
            found["rate"] = jobs / seconds
            found["python_us"] = answer["cpu"] / jobs * 1e6
            found["postgres_us"] = None if answer["pg_cpu"] is None else answer["pg_cpu"] / jobs * 1e6
            found["wal_bytes"] = answer["wal"] / jobs
            found["commits"] = answer["commits"] / jobs
            if len(shares := answer.get("shares", [])) > 1:
                found["smallest_share"] = min(shares) / sum(shares)
        for name, value in found.items():
            if value is not None:
                self.values.setdefault(name, []).append(value)
        self.samples += answer.get("samples", [])

    def document(self) -> dict[str, Any]:
        """What is kept of it."""
        found: dict[str, Any] = {"jobs": self.jobs, "values": self.values}
        if self.samples:
            found["samples"] = len(self.samples)
            found["latency"] = {
                name: percentile(self.samples, part)
                for name, part in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
            }
        if self.refused:
            found["refused"] = self.refused
        return found


class Arena:
    """The server, and templates of databases with our tables and so many finished rows."""

    def __init__(self, url: str, pythons: dict[str, tuple[str, str]]) -> None:
        """`pythons` says for each contender which Python plays which module."""
        self._url = url
        self._pythons = pythons
        self._prefix = f"oban_bench_{secrets.token_hex(4)}"
        self._templates: dict[int, str] = {}
        self._admin: asyncpg.Connection | None = None
        self._postmaster: int | None = None
        self._number = 0

    async def __aenter__(self) -> Self:
        self._admin = await asyncpg.connect(self._url)
        self._postmaster = await gauges.postmaster_of(self._admin)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in self._templates.values():
            await self.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await self.admin.close()

    @property
    def admin(self) -> asyncpg.Connection:
        assert self._admin is not None, "an arena is entered first"
        return self._admin

    def url_of(self, name: str) -> str:
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    async def forget(self, finished: int) -> None:
        """Drop a large template that no further scenario needs."""
        if finished and (name := self._templates.pop(finished, None)):
            await self.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def turn(self, scenario: Scenario, contender: str, *, quick: bool) -> tuple[dict[str, Any], dict[str, str]]:
        """Let a contender take its turn, and return its answer and its versions; raises `Refused`."""
        foreign = contender not in ("floor", "oban_sa")
        finished = None if foreign else scenario.finished // (20 if quick else 1)
        async with self._database(finished) as name, self._held(name, held=scenario.held):
            return await self._play(scenario, contender, name, quick=quick)

    @asynccontextmanager
    async def _database(self, finished: int | None) -> AsyncIterator[str]:
        self._number += 1
        name = f"{self._prefix}_{self._number}"
        made = f"CREATE DATABASE {name}"
        if finished is not None:
            made += f" TEMPLATE {await self._template(finished)} STRATEGY FILE_COPY"
        await self.admin.execute(made, timeout=WITHIN)
        try:
            yield name
        finally:
            await self.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _template(self, finished: int) -> str:
        if finished not in self._templates:
            name = f"{self._prefix}_of_{finished}"
            await self.admin.execute(f"CREATE DATABASE {name}")
            self._templates[finished] = name
            await migrated(self.url_of(name))
            connection = await asyncpg.connect(self.url_of(name))
            if finished:
                await connection.execute(filling.FINISHED, finished, timeout=1800)
            await connection.execute("VACUUM ANALYZE oban_jobs", timeout=1800)
            await connection.close()
        return self._templates[finished]

    @asynccontextmanager
    async def _held(self, name: str, *, held: bool) -> AsyncIterator[None]:
        """Hold the horizon of a database: rows that die meanwhile can't be cleaned away."""
        if not held:
            yield
            return
        connection = await asyncpg.connect(self.url_of(name))
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT count(*) FROM pg_class")
        try:
            yield
        finally:
            await connection.close()

    async def _play(
        self, scenario: Scenario, contender: str, name: str, *, quick: bool
    ) -> tuple[dict[str, Any], dict[str, str]]:
        options = {"url": self.url_of(name), **scenario.asked(contender, quick=quick)}
        python, module = self._pythons[contender]
        within = QUICKLY if quick else WITHIN
        words = ["-m", scenario.modules.get(contender, module), json.dumps(options)]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = await asyncio.create_subprocess_exec(
            python,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            cwd=ROOT,
            limit=2**24,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        try:
            versions = (await _line(process.stdout, within))["versions"]
            await _line(process.stdout, within)
            await self._settle(name)
            commits = await gauges.commits(self.admin, name)
            before = await gauges.read(self.admin, self._postmaster)
            process.stdin.write(b"go\n")
            answer = (await _line(process.stdout, within))["done"]
            after = await gauges.read(self.admin, self._postmaster)
            # What it checks comes after its figure: one that is not true ends it with an error.
            code = await asyncio.wait_for(process.wait(), ENDING)
            if code:
                raise Refused(f"it ended with {code}")
            answer["commits"] = await gauges.commits(self.admin, name) - commits
            answer["wal"] = after.wal - before.wal
            answer["pg_cpu"] = None if before.cpu is None or after.cpu is None else after.cpu - before.cpu
            return answer, versions
        except (Refused, TimeoutError) as error:
            if process.returncode is None:
                process.kill()
            await process.wait()
            last = (await said).decode(errors="replace").strip().splitlines()[-1:]
            raise Refused(" ".join([str(error) or f"it took longer than {within:g} s:", *last])) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.gather(said, return_exceptions=True)

    async def _settle(self, name: str) -> None:
        """Clean up and write to disk what came before, so that no turn pays for another's."""
        connection = await asyncpg.connect(self.url_of(name))
        await connection.execute("VACUUM ANALYZE", timeout=WITHIN)
        await connection.execute("CHECKPOINT", timeout=WITHIN)
        await connection.close()


async def _line(stream: asyncio.StreamReader, within: float) -> dict[str, Any]:
    async with asyncio.timeout(within):
        while line := await stream.readline():
            try:
                found = json.loads(line)
            except ValueError:
                print(line.decode(errors="replace").rstrip(), file=sys.stderr)
                continue
            if isinstance(found, dict):
                return found
    raise Refused("it ended before its turn was over:")
