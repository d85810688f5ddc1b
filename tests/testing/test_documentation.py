"""The examples of `docs/testing.md`, as the test module that they are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import ROOT, run_python


def test_the_examples_pass(tmp_path: Path, database_url: str) -> None:
    code = "\n\n".join(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "testing.md").read_text(), re.MULTILINE | re.DOTALL)
    )
    (tmp_path / "test_app.py").write_text(code)
    plugins = ["-p", "pytest_oban_sa", "-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"]
    ran = run_python(
        *("-m", "pytest", "-p", "no:cacheprovider", *plugins, "test_app.py"),
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TEST_DATABASE_URL": database_url},
    )
    assert f"{code.count('def test_')} passed" in ran.stdout, ran.stdout
