"""The runner as a command, as turns start it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from benchmarks.turn import Turn

SAYS = "drained "
"""Begins the line with which `benchmarks.command.drained` says what was done."""


def runner_command(turn: Turn, *, concurrency: int, module: str) -> list[str]:
    """The command with its defaults; it exits once there is nothing left to do. `module` has the jobs."""
    words = ["--database-url", turn.url, "--queues", f"bench:{concurrency}", "--import", module, "--until-idle"]
    return [sys.executable, "-m", "oban_sa.runner", *words]


async def drained_by_command(turn: Turn) -> dict[str, Any]:
    """Have it drain the queue.

    Returns its seconds from the first fetch to the last written outcome, its CPU in seconds, its memory in megabytes,
    and the ids of the jobs that it ran.
    """
    process = await asyncio.create_subprocess_exec(
        *runner_command(turn, concurrency=turn.concurrency, module="benchmarks.command.drained"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        async with asyncio.timeout(300):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [line.removeprefix(SAYS) for line in said.decode().splitlines() if line.startswith(SAYS)]
    turn.check("lines about what the command did", len(lines), 1)
    found: dict[str, Any] = json.loads(lines[0])
    return found
