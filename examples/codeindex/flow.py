"""The same as one workflow: list the files, index each of them, and report once all have ended.

    enqueue(session, workflow(root))

is all that an application does then: the member that lists the files adds a member for each, and what it adds is
committed with its own completion and with the rows of the files, in one transaction.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.codeindex.indexing import python_files
from examples.codeindex.jobs import index_file, report
from examples.codeindex.models import SourceFile
from oban_sa import Workflow, deps, enqueue, job, ref


def workflow(root: Path) -> Workflow:
    """Return the workflow that brings all files of a folder into the index that are not in it yet."""
    flow = Workflow("codeindex")
    listed = flow.call("list", list_files, str(root))
    files = flow.graft("files", by=listed)
    # A file that is no Python is cancelled, and the report is made all the same.
    flow.add("report", report.new(str(root)), deps=files, forgive=("cancelled", "discarded"))
    return flow


@job(queue="codeindex", record=True)
async def list_files(session: AsyncSession, root: str) -> int:
    """Write the rows of files that are new, and a member for each; record how many there are."""
    known = set(await session.scalars(select(SourceFile.path).where(SourceFile.root == root)))
    files = deps().graft("files")
    new = [each for each in python_files(Path(root)) if each.path not in known]
    for number, each in enumerate(new):
        file = SourceFile(root=root, path=each.path, size=each.size, modified=each.modified)
        session.add(file)
        files.add(f"file-{number}", index_file.new(ref(file)))
    enqueue(session, files)
    return len(new)
