"""Files of others are those that were vendored, and files are served from a table and for ever."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest

from oban_sa.web.static import FOLDER, TYPES, fingerprint
from tests.support import ROOT
from tests.web.conftest import Web, browser_path


def test_files_of_others_are_those_that_were_fetched() -> None:
    sums = json.loads((FOLDER / "vendored.json").read_text())
    assert "htmx.org@4.0.1" in sums
    for files in sums.values():
        assert any("LICENSE" in name for name in files)
        for name, expected in files.items():
            assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == expected, name
    listed = {name for files in sums.values() for name in files}
    minified = {str(path.relative_to(ROOT)) for path in FOLDER.glob("*.min.*")}
    assert minified <= listed


async def test_pages_refer_to_files_by_what_is_in_them(web: Web) -> None:
    found = re.findall(r'(?:src|href)="(/static/[^"]+)"', await web.get("/"))
    assert len(found) == 5
    for path in found:
        answer = await web.client.get(path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"].split(";")[0] in {kind.split(";")[0] for kind in TYPES.values()}


@pytest.mark.parametrize("name", ["__init__.py", "vendored.json", "..%2Fapp.py", "../app.py", "%2e%2e/app.py", "x"])
async def test_no_other_file_is_served(web: Web, name: str) -> None:
    assert (await web.client.get(f"/static/{fingerprint('icon.svg')}/{name}")).status_code == 404


async def test_an_old_link_gets_the_new_file_and_does_not_keep_it(web: Web) -> None:
    answer = await web.client.get("/static/old/dashboard.css")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize("required", ["", "1"])
def test_without_a_browser_its_tests_are_skipped_with_a_reason_unless_ci_requires_one(
    monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    monkeypatch.delenv("OBAN_TEST_BROWSER", raising=False)
    monkeypatch.setenv("OBAN_REQUIRE_BROWSER", required)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused = pytest.fail.Exception if required else pytest.skip.Exception
    with pytest.raises(refused, match="apt-get install chromium-headless-shell"):
        browser_path()
