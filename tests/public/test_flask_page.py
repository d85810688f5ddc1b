"""What docs/flask.md tells to write for jobs that need the application runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import enqueue
from oban_sa.testing import drain
from tests.public import readme


async def test_the_middleware_gives_code_in_threads_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = ("shop", "web", "web_jobs")
    for block in readme.blocks():
        if block.file in {f"{name}.py" for name in modules}:
            (tmp_path / block.file).write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OBAN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    try:
        web_jobs = importlib.import_module("web_jobs")
        async with AsyncSession(engine) as session, session.begin():
            enqueue(session, web_jobs.send_invoice.new(7))
        with pytest.raises(RuntimeError, match="application context"):
            await drain(engine, with_retries=False)
        async with AsyncSession(engine) as session, session.begin():
            enqueue(session, web_jobs.send_invoice.new(8))
        ended = await drain(engine, middleware=[web_jobs.in_app_context])
    finally:
        for name in modules:
            sys.modules.pop(name, None)
    assert ended == {"completed": 1}
    assert capsys.readouterr().out == "web sends invoice 8\n"
