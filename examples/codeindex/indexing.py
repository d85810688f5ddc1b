"""Asking for the work: which files there are, which of them need a job, and what the index holds in the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Executable, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from examples.codeindex.jobs import index_file, report
from examples.codeindex.models import SourceFile, Symbol
from oban_sa import Batch, Job, JobState, enqueue, ref

AT_ONCE = 1_000
"""Ids in one statement."""

FINISHED = (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED)

Sessions: TypeAlias = async_sessionmaker[AsyncSession]


class Present(NamedTuple):
    """A file as it is now."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Asked:
    """What had to be done so that the index is that of the folder as it is now."""

    new: int = 0
    changed: int = 0
    removed: int = 0
    again: int = 0
    """Files whose last job failed."""
    waiting: int = 0
    """Files whose jobs an earlier run has left."""

    @property
    def jobs(self) -> int:
        return self.new + self.changed + self.again + self.waiting

    def __str__(self) -> str:
        said = (
            f"{self.new} new",
            f"{self.changed} changed" * (self.changed > 0),
            f"{self.removed} removed" * (self.removed > 0),
            f"{self.again} to try again" * (self.again > 0),
            f"{self.waiting} waiting since an earlier run" * (self.waiting > 0),
        )
        return ", ".join(filter(None, said))


def python_files(root: Path) -> Iterator[Present]:
    """Yield every .py file below a folder, in order, but for what is installed in `site-packages`."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name != "site-packages")
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                stat = path.stat()
                yield Present(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns)


async def ask(sessions: Sessions, root: Path) -> Asked:
    """Enqueue a batch with a job for each file that needs one, in one transaction with the files' rows.

    Once all of them have ended, whichever runner ran them, the batch makes one more job: the report.
    """
    present = {file.path: file for file in python_files(root)}
    # One transaction: the rows, their jobs and what comes after these are all there, or none of them is.
    async with sessions.begin() as session:
        known: dict[str, SourceFile] = {file.path: file for file in await session.scalars(_files(root))}
        waiting = {*await session.scalars(_unfinished())}

        new = [
            SourceFile(root=str(root), path=each.path, size=each.size, modified=each.modified)
            for path, each in present.items()
            if path not in known
        ]
        session.add_all(new)

        idle = [file for file in known.values() if file.id not in waiting]
        changed = [file for file in idle if file.path in present and _differs(file, present[file.path])]
        again = [file for file in idle if file.path in present and file not in changed and file.indexed_at is None]
        for some in _slices([file.id for file in changed + again]):
            await session.execute(delete(Symbol).where(Symbol.file_id.in_(some)))
        for file in changed + again:
            file.size, file.modified = present[file.path].size, present[file.path].modified
            file.indexed_at = file.refused = None

        removed = [file.id for file in idle if file.path not in present]
        for some in _slices(removed):
            await session.execute(delete(SourceFile).where(SourceFile.id.in_(some)))

        # A new row has no id yet: each job gets the one that its row will have.
        if jobs := [index_file.new(ref(file)) for file in new + changed + again]:
            enqueue(session, Batch(jobs, name="codeindex", on_complete=report.new(str(root))))

    left = sum(file.id in waiting for file in known.values())
    return Asked(len(new), len(changed), len(removed), len(again), left)


async def indexed(sessions: Sessions, root: Path) -> tuple[int, int]:
    """Return how many files were read, and of how many."""
    async with sessions() as session:
        statement = select(func.count(SourceFile.indexed_at), func.count()).where(SourceFile.root == str(root))
        read, files = (await session.execute(statement)).one()
        return read, files


async def last_report(sessions: Sessions, root: Path) -> dict[str, int] | None:
    """Return what the last batch of files reported when it was over; None where none was over yet."""
    async with sessions() as session:
        of_root = Job.worker == worker_name(report), Job.args["root"].as_string() == str(root)
        job = await session.scalar(select(Job).where(*of_root).order_by(Job.id.desc()).limit(1))
        found: dict[str, int] | None = None if job is None else job.recorded()
        return found


async def failures(sessions: Sessions, root: Path) -> list[tuple[str, str]]:
    """Return the files that were not read, each with the error of its last job."""
    async with sessions() as session:
        missing = {file.id: file.path for file in await session.scalars(_files(root)) if file.indexed_at is None}
        jobs = await session.scalars(
            select(Job)
            .where(Job.worker == worker_name(index_file), Job.args["file_id"].as_integer().in_(list(missing)))
            .order_by(Job.id)
        )
        last = {job.args["file_id"]: job.errors[-1]["error"].partition("\n")[0] for job in jobs if job.errors}
    return [(path, last.get(file_id, "no job has read it")) for file_id, path in missing.items()]


@dataclass(frozen=True)
class Contents:
    """What the index of a folder holds."""

    files: int
    refused: list[tuple[str, str]]
    kinds: dict[str, int]
    largest: list[tuple[str, int]]

    @property
    def symbols(self) -> int:
        return sum(self.kinds.values())


async def contents(sessions: Sessions, root: Path) -> Contents:
    """Return what the index of a folder holds now."""
    here = SourceFile.root == str(root)
    count = func.count(Symbol.id)
    async with sessions() as session:
        refused = select(SourceFile.path, SourceFile.refused).where(here, SourceFile.refused.is_not(None))
        kinds = select(Symbol.kind, count).join(SourceFile).where(here).group_by(Symbol.kind)
        largest = select(SourceFile.path, count).join(Symbol).where(here).group_by(SourceFile.path)
        return Contents(
            files=await session.scalar(select(func.count()).select_from(SourceFile).where(here)) or 0,
            refused=await _pairs(session, refused.order_by(SourceFile.path)),
            kinds=dict(await _pairs(session, kinds.order_by(count.desc()))),
            largest=await _pairs(session, largest.order_by(count.desc(), SourceFile.path).limit(5)),
        )


async def _pairs(session: AsyncSession, statement: Executable) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in await session.execute(statement)]


def _files(root: Path) -> Select[Any]:
    return select(SourceFile).where(SourceFile.root == str(root)).order_by(SourceFile.path)


def _unfinished() -> Select[Any]:
    of_files = Job.worker == worker_name(index_file)
    return select(Job.args["file_id"].as_integer()).where(of_files, Job.state.not_in(FINISHED))


def worker_name(worker: Any) -> str:
    """Return what a row of oban_jobs calls a worker: its dotted name."""
    return f"{worker.__module__}.{worker.__qualname__}"


def _differs(file: SourceFile, present: Present) -> bool:
    return (file.size, file.modified) != (present.size, present.modified)


def _slices(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
