"""The workers: one job for each file, and one for all of them together, once they have ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.codeindex.models import SourceFile, Symbol
from examples.codeindex.parsing import Found, RefusedError, symbols_in
from oban_sa import Cancel, Result, job


@job(queue="codeindex", max_attempts=3, backoff=1)
async def index_file(session: AsyncSession, file_id: int) -> Result:
    """Store what a file defines.

    The session is the attempt's own: what is written here is committed together with the job's completion, in one
    transaction, or not at all. However often runners crash, no symbol is there twice and none is missing.
    """
    file = await session.get(SourceFile, file_id)
    if file is None:
        return Cancel(f"the file {file_id} is no longer in the index")
    file.indexed_at, file.refused = func.now(), None
    try:
        found = await parsed(Path(file.root) / file.path)
    except (RefusedError, OSError) as error:
        file.refused = str(error)
        return Cancel(file.refused)
    if found:
        rows = [{"file_id": file_id, "kind": kind, "name": name, "line": line} for kind, name, line in found]
        await session.execute(insert(Symbol), rows)
    return None


@job(queue="codeindex", record=True)
async def report(session: AsyncSession, root: str) -> dict[str, int]:
    """Record what the index of the folder holds: files, symbols, and files that were refused.

    It is the callback of a batch of files (`indexing.py`) and the last member of a workflow of them (`flow.py`).
    """
    of_root = SourceFile.root == root
    symbols = await session.scalar(select(func.count()).select_from(Symbol).join(SourceFile).where(of_root))
    files, refused = (await session.execute(select(func.count(), func.count(SourceFile.refused)).where(of_root))).one()
    return {"files": files, "symbols": symbols or 0, "refused": refused}


# Parsing keeps a processor busy and never lets go of Python's lock while it does: on the loop, and in a thread just as
# well, a big file would keep every other job waiting. So it has processes of its own.

_pool: ProcessPoolExecutor | None = None


async def parsed(path: Path) -> list[Found]:
    """Return what a file defines, without blocking the loop."""
    global _pool
    if _pool is None:
        # Spawned: a fork would copy the locks of this process's threads.
        _pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        return await asyncio.get_running_loop().run_in_executor(_pool, symbols_in, str(path))
    except BrokenProcessPool:
        _pool = None  # the next attempt gets another
        raise


def _begin() -> None:
    # Ctrl-C reaches the whole process group; what it means for running jobs is for the runner to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_runner, daemon=True).start()


def _end_with_the_runner() -> None:
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os._exit(1)
