"""How fast it is: the floor, oban_sa and other queues, interleaved in one run on one server.

    python -m benchmarks                          # everything, in three quarters of an hour
    python -m benchmarks --only drain_50,startup  # some of it
    python -m benchmarks --only 'enqueue*,flush*' --results /tmp/enqueue.json
    python -m benchmarks --quick --results /tmp/quick.json
    python -m benchmarks.page                     # docs/performance.md, from the results
    python -m benchmarks --rows 100000000 --keep  # instead: oban_sa beside so many jobs that are over

The server is a private, durable PostgreSQL, or the one named by `--database-url`, where databases named
`oban_bench_...` are made and dropped. Other queues are installed below `.oban/benchmarks/peers`. A run that was stopped
goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import environments, results
from benchmarks.contest import Arena, Refused, Taken
from benchmarks.full import measure as full
from benchmarks.ground import SETTINGS, server
from benchmarks.machine import machine
from benchmarks.scenario import Scenario
from benchmarks.scenarios import BY_NAME, SCENARIOS
from benchmarks.turn import loop_factory

TOLD = (
    "server_version",
    "shared_buffers",
    "max_wal_size",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "autovacuum",
    "jit",
)
"""The server's settings that are recorded."""


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database-url", help="a server to make databases on; else a private, durable PostgreSQL")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn; medians are shown")
    parser.add_argument("--only", help="names of scenarios, also with *, separated by commas")
    parser.add_argument("--large", action="store_true", help="also those that take many minutes and gigabytes")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work: whether it runs, not how fast")
    parser.add_argument("--without-peers", action="store_true", help="only the floor and oban_sa")
    parser.add_argument("--peers", help="which other queues, separated by commas")
    parser.add_argument("--resume", action="store_true", help="keep what the results hold already")
    parser.add_argument("--results", type=Path, help=f"where they are written; {results.LATEST} is the default")
    parser.add_argument("--rows", type=int, help="instead: what everything costs beside so many jobs that are over")
    parser.add_argument("--keep", action="store_true", help="with --rows: keep the table for the next time")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and do nothing")
    given = parser.parse_args(arguments)
    unknown = [name for name in _names(given.only) if not fnmatch.filter(BY_NAME, name)]
    if unknown:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    peers = [each.name for each in environments.PEERS_KNOWN]
    if strangers := [name for name in _names(given.peers) if name not in peers]:
        parser.error(f"{', '.join(strangers)} can't take part; there are {', '.join(peers)}")
    if given.rows is not None and given.rows < 1:
        parser.error("--rows is a number of jobs, such as 1000000")
    if given.results is None and given.rows is None:
        if given.quick:
            given.results = Path(".oban") / "benchmarks" / "quick.json"
        else:
            given.results = results.LATEST
    return given


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for; 1 where a figure was refused."""
    given = options(arguments)
    if given.list:
        for scenario in map(BY_NAME.__getitem__, _chosen(given) if given.only else BY_NAME):
            print(f"{scenario.name:16} {scenario.title}{' (only with --large)' if scenario.large else ''}")
        return 0
    if given.rows is not None:
        with server(given.database_url) as url, asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(full.measure(url, given.rows, keep=given.keep, results=given.results))
        return 0
    chosen = [BY_NAME[name] for name in _chosen(given)]
    pythons, left_out = contenders(given, wanted={name for each in chosen for name in each.contenders})
    try:
        with server(given.database_url) as url, asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(measure(given, url, chosen, pythons, left_out))
    except KeyboardInterrupt:
        print(f"\nstopped; --resume goes on after the last scenario that {given.results} holds", file=sys.stderr)
        return 130


def _chosen(given: argparse.Namespace) -> list[str]:
    """The names of the scenarios that were asked for, in their order."""
    if patterns := _names(given.only):
        ordinary = [each.name for each in SCENARIOS if given.large or not each.large]
        matched = {name for each in patterns for name in fnmatch.filter(ordinary, each)}
        return [name for name in BY_NAME if name in matched or name in patterns]
    return [each.name for each in SCENARIOS if given.large or not each.large]


def contenders(
    given: argparse.Namespace, *, wanted: Collection[str]
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Which Python plays which module for those of the `wanted` who can take part; and why others are left out."""
    pythons: dict[str, tuple[str, str]] = {}
    left_out: dict[str, str] = {}
    asked = _names(given.peers)
    for each in (environments.FLOOR, environments.OURS, *environments.PEERS_KNOWN):
        if not each.ours and (given.without_peers or (asked and each.name not in asked)):
            left_out[each.name] = "not asked for"
            continue
        if each.name not in wanted:
            continue
        try:
            pythons[each.name] = (environments.python_of(each), each.module)
        except environments.LeftOut as error:
            left_out[each.name] = str(error)
            print(f"{each.name} is left out: {error}", file=sys.stderr, flush=True)
    return pythons, left_out


async def measure(
    given: argparse.Namespace,
    url: str,
    chosen: list[Scenario],
    pythons: dict[str, tuple[str, str]],
    left_out: dict[str, str],
) -> int:
    """Let everybody take turns, and write the results after each scenario."""
    document = await _begun(given, url, left_out)
    done = document["scenarios"] if given.resume else {}
    left = [scenario for scenario in chosen if scenario.name not in done]
    progress = Progress([(each, name, given.rounds) for each in left for name in each.contenders if name in pythons])
    failed = False
    async with Arena(url, pythons) as arena:
        for scenario in left:
            figures = {name: Taken() for name in scenario.contenders if name in pythons}
            for number in range(given.rounds):
                for name, taken in figures.items():
                    progress.begin(scenario, name, number)
                    try:
                        answer, versions = await arena.turn(scenario, name, quick=given.quick)
                    except Refused as error:
                        failed = True
                        taken.refused.append(str(error))
                        progress.end(f"refused: {error}")
                        continue
                    taken.add(answer, scenario)
                    document["contenders"].setdefault(name, {}).update(versions)
                    progress.end(_shown(scenario, answer))
            await arena.forget(scenario.finished // (20 if given.quick else 1))
            document["scenarios"][scenario.name] = {
                "title": scenario.title,
                "options": {**scenario.options, "finished": scenario.finished, "rounds": given.rounds},
                "figures": {name: taken.document() for name, taken in figures.items()},
            }
            document["ended_at"] = _now()
            results.save(given.results, document)
    print(f"\n{given.results} is written; python -m benchmarks.page makes docs/performance.md of it", file=sys.stderr)
    return 1 if failed else 0


async def _begun(given: argparse.Namespace, url: str, left_out: dict[str, str]) -> dict[str, Any]:
    """The document to add to: the one on disk where part of a run is repeated or resumed, else a new one."""
    connection = await asyncpg.connect(url)
    settings = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in TOLD}
    await connection.close()
    if (given.only or given.resume) and given.results.exists():
        document = results.load(given.results)
        if given.only:
            document.setdefault("repeated", {}).update(dict.fromkeys(_chosen(given), _now()))
        return document
    return {
        "begun_at": _now(),
        "ended_at": _now(),
        "rounds": given.rounds,
        "quick": given.quick,
        "machine": machine(),
        "server": settings,
        "private_server": given.database_url is None,
        "settings": SETTINGS if given.database_url is None else {},
        "contenders": {},
        "left_out": left_out,
        "scenarios": {},
    }


class Progress:
    """Says what is being done, what came of it, and how long it will take until the end."""

    def __init__(self, turns: list[tuple[Scenario, str, int]]) -> None:
        self._about = [scenario.about for scenario, _, rounds in turns for _ in range(rounds)]
        self._total = sum(self._about)
        self._began = time.monotonic()
        self._done = 0.0
        self._current: Scenario | None = None

    def begin(self, scenario: Scenario, name: str, number: int) -> None:
        spent = time.monotonic() - self._began
        pace = spent / self._done if self._done else 1.0
        left = (self._total - self._done) * pace
        self._current = scenario
        line = f"{_clock(left)} left  {scenario.name:15} round {number + 1}  {name:14}"
        print(line, end=" ", file=sys.stderr, flush=True)

    def end(self, result: str) -> None:
        assert self._current is not None, "a turn begins before it ends"
        self._done += self._current.about
        print(result, file=sys.stderr, flush=True)


def _shown(scenario: Scenario, answer: dict[str, Any]) -> str:
    samples = sorted(answer.get("samples", []))
    if samples and scenario.measures != "rate":
        return f"{samples[len(samples) // 2]:,.2f} ms"
    if scenario.measures == "rest":
        return f"{(answer['statements'] or 0) / answer['seconds']:,.1f} {scenario.unit}"
    cycles = f", the longest cycle {samples[-1]:,.1f} ms" if samples else ""
    return f"{answer['jobs'] / answer['seconds']:,.0f} {scenario.unit}{cycles}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
