"""What the runner logs comes to where it was told to, whatever the modules of workers do to logging."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from oban_sa.runner.concurrency.processes.pool import Processes
from oban_sa.workers import definition_of
from tests.runner import process_jobs
from tests.runner.concurrency.test_processes import fetched

DICT_CONFIG = "import logging.config; logging.config.dictConfig({'version': 1})"
WITH_ROOT = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"theirs": {"format": "THEIRS %(message)s"}},
    "handlers": {"theirs": {"class": "logging.StreamHandler", "formatter": "theirs"}},
    "root": {"handlers": ["theirs"], "level": "ERROR"},
})
"""
FILE_CONFIG = """
import io, logging.config
logging.config.fileConfig(io.StringIO('''
[loggers]
keys=root
[handlers]
keys=theirs
[formatters]
keys=theirs
[logger_root]
level=ERROR
handlers=theirs
[handler_theirs]
class=StreamHandler
args=()
formatter=theirs
[formatter_theirs]
format=THEIRS %(message)s
'''))
"""
FORCED = "import logging; logging.basicConfig(force=True, format='THEIRS %(message)s', level='ERROR')"
CLEARED = "import logging; logging.getLogger().handlers.clear()"
TWICE = f"{DICT_CONFIG}\n{WITH_ROOT}\n{FORCED}"
CONFIGURATIONS = {
    "dictConfig": DICT_CONFIG,
    "dictConfig with root": WITH_ROOT,
    "fileConfig": FILE_CONFIG,
    "basicConfig": FORCED,
    "cleared": CLEARED,
    "twice": TWICE,
}

PROGRAM = """
import logging
from oban_sa import telemetry
from oban_sa.service import imports, logs
from oban_sa.telemetry import log
from oban_sa.jobs.states import JobState

SOURCE = telemetry.Source(node="host.1")

def stop(number):
    telemetry.emit(telemetry.JobStop(
        runner=SOURCE, job_id=number, worker="Pay", queue="q", attempt=1, max_attempts=20, duration=1.0,
        state=JobState.COMPLETED))

logs.configure("info", {log_format!r})
logging.getLogger("oban_sa.runner").info("before")
for name in {before!r}:
    imports.load([name])
detach = log.follow_events()
stop(1)
for name in {later!r}:
    __import__(name)
stop(2)
stop(3)
logging.getLogger("oban_sa.runner").info("at last")
logging.getLogger("shop").error("from the shop")
"""


def said(tmp_path: Path, configuration: str, *, when: str, log_format: str = "text") -> list[str]:
    """What such a program writes to stderr whose module configures logging before the runner works, or later."""
    (tmp_path / "configures_logging.py").write_text(configuration)
    names = {"before": [], "later": [], when: ["configures_logging"]}
    program = textwrap.dedent(PROGRAM).format(log_format=log_format, **names)
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    return ran.stderr.splitlines()


@pytest.mark.parametrize("when", ["before", "later"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_module_that_configures_logging_does_not_silence_the_runner(
    tmp_path: Path, configuration: str, when: str
) -> None:
    lines = said(tmp_path, CONFIGURATIONS[configuration], when=when)
    for words in ("before", "job 1 Pay completed", "job 2 Pay completed", "job 3 Pay completed", "at last"):
        [line] = [line for line in lines if words in line]
        assert line.startswith("20"), line
        assert " INFO    " in line
    [told] = [line for line in lines if "a module of yours configured logging" in line]
    assert " WARNING " in told
    switched_off = configuration in ("dictConfig", "dictConfig with root", "fileConfig", "twice")
    assert ("Write disable_existing_loggers=False" in told) is switched_off
    theirs = [line for line in lines if line.startswith("THEIRS")]
    assert theirs in ([], ["THEIRS from the shop"])


def test_the_format_for_machines_stays_too(tmp_path: Path) -> None:
    lines = said(tmp_path, WITH_ROOT, when="before", log_format="json")
    assert [line for line in lines if not line.startswith("{")] == ["THEIRS from the shop"]


def test_a_module_that_configures_nothing_is_told_nothing(tmp_path: Path) -> None:
    lines = said(tmp_path, "import logging", when="before")
    assert not [line for line in lines if "configured logging" in line]
    assert len(lines) == 6


def test_handlers_that_were_given_to_oban_sa_by_name_are_left_to_it(tmp_path: Path) -> None:
    named = WITH_ROOT.replace('"root": {', '"loggers": {"oban_sa": {').replace('"ERROR"},', '"INFO"}},')
    lines = said(tmp_path, f"{named}\nlogging.getLogger().handlers.clear()", when="before")
    assert "THEIRS job 1 Pay completed after 1 second" in lines
    assert not [line for line in lines if line.startswith("20") and "job 1" in line]


async def test_a_process_whose_modules_configure_logging_still_tells_the_runner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    processes = Processes(limit=1, imports=["tests.telemetry.configures_logging"])
    try:
        await processes.call(
            definition_of(process_jobs.logs_as_the_runner), fetched(process_jobs.logs_as_the_runner.new())
        )
    finally:
        await processes.close()
    assert [record.getMessage() for record in caplog.records if record.name == "oban_sa.inside"] == ["still here"]
