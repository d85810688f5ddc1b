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
from benchmarks.scenario import Scenario
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
        self.jobs = answer["jobs"]
        of = {"rate": _of_rate, "rest": _of_rest, "crowd": _of_crowd}.get(scenario.measures, _of_latency)
        for name, value in of(answer).items():
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


def _of_latency(answer: dict[str, Any]) -> dict[str, float | None]:
    return {"memory_mb": answer["memory_mb"]}


def _of_rate(answer: dict[str, Any]) -> dict[str, float | None]:
    """Jobs a second, and what each cost."""
    jobs, shares = answer["jobs"], answer.get("shares", [])
    return {
        "memory_mb": answer["memory_mb"],
        "rate": jobs / answer["seconds"],
        "python_us": answer["cpu"] / jobs * 1e6,
        "postgres_us": _each(answer["pg_cpu"], jobs, 1e6),
        "wal_bytes": answer["wal"] / jobs,
        "commits": answer["commits_in_all"] / jobs,
        "statements": _each(answer["statements"], jobs),
        "smallest_share": min(shares) / sum(shares) if len(shares) > 1 else None,
    }


def _of_rest(answer: dict[str, Any]) -> dict[str, float | None]:
    """What nodes with nothing to do cost in a second."""
    seconds = answer["seconds"]
    return {
        "memory_mb": answer["node_mb"],
        "connections": answer["connections"],
        "statements_per_s": _each(answer["statements"], seconds),
        "commits_per_s": answer["commits"] / seconds,
        "postgres_ms_per_s": _each(answer["pg_cpu"], seconds, 1e3),
        "python_ms_per_s": _each(answer["nodes_cpu"], seconds, 1e3),
    }


def _of_crowd(answer: dict[str, Any]) -> dict[str, float | None]:
    """What each job cost all nodes together, the application's part in statements and commits included."""
    jobs = answer["jobs"]
    return {
        "memory_mb": answer["node_mb"],
        "connections": answer["connections"],
        "statements": _each(answer["statements"], jobs),
        "commits": answer["commits"] / jobs,
        "postgres_us": _each(answer["pg_cpu"], jobs, 1e6),
        "python_us": _each(answer["nodes_cpu"], jobs, 1e6),
    }


def _each(spent: float | None, count: float, unit: float = 1.0) -> float | None:
    return None if spent is None else spent / count * unit


class Arena:
    """The server, and templates of databases with our tables and so many finished rows."""

    def __init__(self, url: str, pythons: dict[str, tuple[str, str]]) -> None:
        """`pythons` says for each contender which Python plays which module."""
        self._url = url
        self._pythons = pythons
        self._prefix = f"oban_bench_{secrets.token_hex(4)}"
        self._counts = f"{self._prefix}_counts"
        self._templates: dict[int, str] = {}
        self._admin: asyncpg.Connection | None = None
        self._counting: asyncpg.Connection | None = None
        self._postmaster: int | None = None
        self._number = 0

    async def __aenter__(self) -> Self:
        self._admin = await asyncpg.connect(self._url)
        self._postmaster = await gauges.postmaster_of(self._admin)
        await self.admin.execute(f"CREATE DATABASE {self._counts}")
        counting = await asyncpg.connect(self.url_of(self._counts))
        if await gauges.counts_statements(counting):
            self._counting = counting
        else:
            await counting.close()
            print("this server does not count statements: it has no pg_stat_statements", file=sys.stderr)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._counting is not None:
            await self._counting.close()
        for name in (self._counts, *self._templates.values()):
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
        async with (
            self._database(finished) as name,
            self._counted(name, counted=scenario.counted),
            self._held(name, held=scenario.held),
        ):
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
    async def _counted(self, name: str, *, counted: bool) -> AsyncIterator[None]:
        """Have the server count a database's statements, where it can."""
        if not counted or self._counting is None:
            yield
            return
        await gauges.count_statements(self.admin, name)
        try:
            yield
        finally:
            await gauges.forget_statements(self._counting, name)

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
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        # An installed package has its bytecode; without it each start would compile all that it imports.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        process = await asyncio.create_subprocess_exec(
            python,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            limit=2**24,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        try:
            versions = (await _line(process.stdout, within))["versions"]
            nodes = (await _line(process.stdout, within)).get("nodes", [])
            await self._settle(name)
            before = await self._read(name, scenario, nodes)
            process.stdin.write(b"go\n")
            answer = (await _line(process.stdout, within))["done"]
            after = await self._read(name, scenario, nodes)
            memory = gauges.memory(nodes)
            if nodes:
                process.stdin.write(b"measured\n")
            # What it checks comes after its figure: one that is not true ends it with an error.
            code = await asyncio.wait_for(process.wait(), ENDING)
            if code:
                raise Refused(f"it ended with {code}")
            ended = await self._read(name, scenario, [])
            return {
                **answer,
                "wal": after.wal - before.wal,
                "commits": after.commits - before.commits,
                "commits_in_all": ended.commits - before.commits,
                "connections": after.connections,
                "statements": _counted(before.statements, after.statements),
                "pg_cpu": _ran(before.server, after.server),
                "nodes_cpu": _ran(before.nodes, after.nodes),
                "node_mb": None if memory is None else memory / len(nodes),
            }, versions
        except (Refused, TimeoutError) as error:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await asyncio.wait([said], timeout=5)
            last = said.result().decode(errors="replace").strip().splitlines()[-1:] if said.done() else []
            raise Refused(" ".join([str(error) or f"it took longer than {within:g} s:", *last])) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            # A process that a contender left behind may keep its standard error open.
            await asyncio.wait([said], timeout=5)
            said.cancel()

    async def _read(self, name: str, scenario: Scenario, nodes: list[int]) -> gauges.Gauges:
        counting = self._counting if scenario.counted else None
        return await gauges.read(self.admin, name, postmaster=self._postmaster, nodes=nodes, counting=counting)

    async def _settle(self, name: str) -> None:
        """Clean up and write to disk what came before, so that no turn pays for another's."""
        connection = await asyncpg.connect(self.url_of(name))
        await connection.execute("VACUUM ANALYZE", timeout=WITHIN)
        await connection.execute("CHECKPOINT", timeout=WITHIN)
        await connection.close()


def _counted(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _ran(before: gauges.Run | None, after: gauges.Run | None) -> float | None:
    return None if before is None or after is None else after.since(before)


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
