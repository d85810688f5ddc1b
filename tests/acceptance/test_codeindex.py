"""The demonstration, on a folder small enough for a test: real runner process, real files, and the right numbers."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from examples.codeindex import jobs
from examples.codeindex.flow import workflow
from examples.codeindex.models import Base, SourceFile, Symbol
from examples.codeindex.parsing import RefusedError, symbols_in
from oban_sa import Job, JobState, Oban, Runner, enqueue
from tests.support import ROOT, eventually, run_python

LAST_LINE = re.compile(r"files=(\d+) symbols=(\d+) refused=(\d+) seconds=\d+\.\d jobs_per_second=\d+")
REFUSED = {
    "python2.py": b'print "hello"\n',
    "nul.py": b"x = 1\0\n",
    "encoding.py": b"# coding: no-such-encoding\n",
    "bytes.py": b"name = '\xff'\n",
    "deep.py": b"(" * 3000 + b")" * 3000 + b"\n",
}
ACCEPTED = {
    "empty.py": b"",
    "latin.py": b"# coding: latin-1\ndef caf\xe9():\n    return '\xe9'\n",
    "warns.py": b"def f():\n    return '\\d' is 1\n",
    "nested.py": b"class A:\n    async def b(self):\n        def c(): ...\n",
    "brackets [bold].py": b"def f(): ...\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sample"
    shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / "json", made / "json")
    shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / "concurrent", made / "concurrent")
    for name, source in (REFUSED | ACCEPTED).items():
        (made / name).write_bytes(source)
    (made / "site-packages").mkdir()
    (made / "site-packages" / "installed.py").write_text("def not_ours(): ...\n")
    return made


def index(folder: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    # Every warning is shown, so that one about the code that is read would be seen.
    arguments = ("-m", "examples.codeindex", str(folder), "--database-url", url, *more)
    return run_python(*arguments, env={"PYTHONWARNINGS": "default"}, timeout=120)


def counted(folder: Path) -> tuple[int, int, int]:
    """Files, symbols and refusals, counted in the plainest way there is."""
    files = [path for path in folder.rglob("*.py") if "site-packages" not in path.parts]
    symbols = refused = 0
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except Exception:
            refused += 1
        else:
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            symbols += sum(isinstance(node, kinds) for node in ast.walk(tree))
    return len(files), symbols, refused


def numbers(done: subprocess.CompletedProcess[str]) -> tuple[int, ...]:
    assert done.returncode == 0, done.stdout + done.stderr
    last = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert last is not None, done.stdout
    return tuple(int(number) for number in last.groups())


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_the_numbers_are_those_of_a_plain_count(folder: Path, database_url: str, sync_engine: Engine) -> None:
    done = index(folder, database_url)
    expected = counted(folder)
    assert numbers(done) == expected
    assert expected[2] == len(REFUSED)
    assert "invalid escape sequence" not in done.stderr
    with Session(sync_engine) as session:
        files = {file.path: file for file in session.scalars(select(SourceFile))}
        named = select(Symbol.kind, Symbol.name, Symbol.line).join(SourceFile).where(SourceFile.path == "nested.py")
        *of_files, reported = session.scalars(select(Job).order_by(Job.id))
        jobs = {job.args["file_id"]: job for job in of_files}
        assert len(jobs) == len(of_files) == len(files) == expected[0]
        assert sorted(session.execute(named).all()) == [
            ("async function", "b", 2),
            ("class", "A", 1),
            ("function", "c", 3),
        ]
        for path, file in files.items():
            job = jobs[file.id]
            assert job.attempt == 1
            assert (path in REFUSED) == (job.state == JobState.CANCELLED) == (file.refused is not None), path
            if file.refused is not None:
                assert file.refused in job.errors[0]["error"]
                assert file.refused in done.stdout
        # The batch is over when the last of its jobs is, however these have ended.
        assert (reported.meta["batch_event"], reported.state) == ("on_complete", JobState.COMPLETED)
        assert {job.meta["batch_id"] for job in of_files} == {reported.meta["batch_id"]}
        assert reported.attempted_at is not None
        assert reported.attempted_at >= max(job.completed_at or job.cancelled_at for job in of_files)
        held = dict(zip(("files", "symbols", "refused"), expected, strict=True))
        assert reported.recorded() == held
        assert f"The batch is over; its callback reports: {held}" in done.stdout


def test_running_it_again_changes_nothing_and_says_so(folder: Path, database_url: str, sync_engine: Engine) -> None:
    first = numbers(index(folder, database_url))
    with Session(sync_engine) as session:
        before = [set(session.scalars(select(table.id))) for table in (SourceFile, Symbol, Job)]
    again = index(folder, database_url)
    assert numbers(again) == first
    assert f"Nothing has changed: the index of {folder} was up to date." in again.stdout
    assert "jobs_per_second=0" in again.stdout
    with Session(sync_engine) as session:
        assert [set(session.scalars(select(table.id))) for table in (SourceFile, Symbol, Job)] == before


def test_only_what_has_changed_is_indexed_again(folder: Path, database_url: str, sync_engine: Engine) -> None:
    files, symbols, refused = numbers(index(folder, database_url))
    (folder / "python2.py").write_text("def hello(): ...\n")
    (folder / "latin.py").unlink()
    (folder / "new.py").write_text("class New: ...\n")
    with Session(sync_engine) as session:
        jobs = len(session.scalars(select(Job)).all())
    done = index(folder, database_url)
    assert "1 new, 1 changed, 1 removed" in done.stdout
    assert "Nothing has changed" not in done.stdout
    assert numbers(done) == (files, symbols + 1, refused - 1)
    with Session(sync_engine) as session:
        assert len(session.scalars(select(Job)).all()) == jobs + 3  # two files, and the report of their batch


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_the_command_runs_the_workflow_too(folder: Path, database_url: str) -> None:
    done = index(folder, database_url, "--workflow")
    expected = files, symbols, refused = counted(folder)
    assert numbers(done) == expected
    drawn = workflow(folder).mermaid()
    assert drawn in done.stdout
    assert drawn in (ROOT / "examples" / "README.md").read_text()
    assert f"of {files + 2} members {files + 2 - refused} were completed and {refused} cancelled" in done.stdout
    assert f"Its last one reports: {dict(files=files, symbols=symbols, refused=refused)}" in done.stdout  # noqa: C408
    again = index(folder, database_url, "--workflow")
    assert "The workflow is completed: of 2 members 2 were completed and 0 cancelled" in again.stdout


def test_a_database_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    done = index(tmp_path, "postgresql://nobody:secret@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "nothing listens at 127.0.0.1:1" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_parsed_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[name])
    with pytest.raises(RefusedError) as refused:
        symbols_in(str(path))
    assert str(refused.value)


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process that parses is left to the tests after this one."""
    monkeypatch.setattr("examples.codeindex.jobs._pool", None)
    yield
    if (pool := jobs._pool) is not None:
        pool.shutdown()


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
async def test_as_one_workflow_it_comes_to_the_same(folder: Path, engine: AsyncEngine, own_pool: None) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    flow = workflow(folder)
    async with AsyncSession(engine) as session:
        enqueue(session, flow)
        await session.commit()
    async with Runner(engine, queues={"codeindex": 4}):

        async def over() -> None:
            assert (await Oban(engine).workflow(flow)).unfinished == 0

        await eventually(over, 60)
    files, symbols, refused = counted(folder)
    async with AsyncSession(engine) as session:
        found = {job.meta["name"]: job for job in await session.scalars(select(Job))}
    assert found["list"].recorded() == files == len(found) - 2
    assert found["report"].recorded() == {"files": files, "symbols": symbols, "refused": refused}
    status = await Oban(engine).workflow(flow)
    assert (status.total, status.subs["files"].cancelled) == (files + 2, refused)
