"""A node of Oban for Python, run by an interpreter that has it: `python -m tests.acceptance.oban_py_node URL`.

It takes one JSON array per line, a method of `oban.Oban` and its arguments, and answers with one line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from oban import Job, Oban, Record, worker


@worker(queue="theirs")
class Theirs:
    async def process(self, job: Any) -> Any:
        for _ in range(int(job.args.get("hundredths", 0))):
            if job.cancelled():
                return None
            await asyncio.sleep(0.01)
        return Record({"by": "oban-py", "n": job.args.get("n")})


async def main(url: str) -> None:
    pool = await Oban.create_pool(url, max_size=8)
    theirs = Oban(
        pool=pool,
        name="Oban",
        node="py.1",
        queues={"theirs": 5, "shared": 5},
        stager={"interval": 0.2},
        lifeline={"interval": 0.05, "rescue_after": float(os.environ.get("OBAN_PY_RESCUE_AFTER", "300"))},
        shutdown_grace_period=2,
    )
    async with theirs:
        # It is started before it listens, and what is sent until then is lost.
        while theirs._notifier._pending_listen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        print(json.dumps(["ready", "started"]), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *rest = json.loads(line)
            answer: Any
            if name == "enqueue":
                answer = (await theirs.enqueue(Job(**rest[0]))).id
            elif name == "check":
                answer = {
                    info.queue: {"paused": info.paused, "limit": info.limit, "running": info.running}
                    for info in theirs.check_all_queues()
                }
            else:
                await getattr(theirs, name)(*rest[0], **rest[1])
                answer = None
            print(json.dumps([name, answer]), flush=True)
    await pool.close()


if __name__ == "__main__":
    # The workers' names are those of the module, whether it is run or imported.
    Theirs.__module__ = "tests.acceptance.oban_py_node"
    worker(queue="theirs")(Theirs)
    asyncio.run(main(sys.argv[1]))
