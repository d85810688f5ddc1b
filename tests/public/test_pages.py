"""Every block of Python in the README and in docs/ runs, or says why not; commands, flags and files of others exist."""

from __future__ import annotations

import json
import re
import tomllib
from configparser import ConfigParser

import click
import pytest

from oban_sa.jobs import encryption
from oban_sa.settings.settings import Settings
from tests.public import commands, pages
from tests.public.pages import Block
from tests.support import ROOT, run_python

LANGUAGES = {"python", "sh", "console", "toml", "yaml", "ini", "json", "sql", "dockerfile", "mermaid", "text", ""}
ALL = [block for page in pages.EVERY for block in pages.blocks(page)]


def blocks(language: str) -> list[Block]:
    return [block for block in ALL if block.language == language]


def test_the_pages_that_are_programs_run(database_url: str) -> None:
    ran = run_python("-W", "error", "-m", "tests.public.programs", env={"OBAN_DATABASE_URL": database_url})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran_to_the_end = [line for line in ran.stdout.splitlines() if line.startswith("ran ")]
    assert ran_to_the_end == [f"ran {page}" for page in pages.PROGRAMS]


def test_every_block_of_python_is_run_by_a_test_or_says_why_not() -> None:
    run = {*pages.STORY, *pages.ELSEWHERE, *pages.PROGRAMS}
    assert [str(block) for block in blocks("python") if block.runs and block.page not in run] == []
    assert [str(block) for block in ALL if block.reason == ""] == [], "write <!-- not run: why -->"
    for page, test in pages.ELSEWHERE.items():
        assert page.rpartition("/")[2] in (ROOT / test).read_text(), f"{test} does not read {page}"


def test_every_block_is_found_and_says_its_language() -> None:
    assert {block.language for block in ALL} <= LANGUAGES
    for page in pages.EVERY:
        fences = [line for line in pages.read(page).splitlines() if line.lstrip().startswith(("```", "~~~"))]
        assert len(fences) == 2 * len(pages.blocks(page)), f"{page} has a fence that is indented or not closed"


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_can_be_read(block: Block) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_can_be_read_but_for_what_is_left_out(block: Block) -> None:
    json.loads(block.text)


COMMANDS = [(page, command) for page in pages.EVERY for command in commands.written(page)]
FOREIGN = {"--head", "--version-path", "--reload", "--workers", "--pool"}
"""Flags of Alembic, uvicorn and Celery."""


def test_commands_and_flags_exist() -> None:
    assert len(COMMANDS) > 50
    refused = []
    for page, command in COMMANDS:
        try:
            commands.refuse(command)
        except click.UsageError as error:
            refused.append(f"{page}: {' '.join(command)}: {error.format_message()}")
    assert refused == []


@pytest.mark.parametrize("page", pages.EVERY)
def test_flags_and_variables_of_sentences_exist(page: str) -> None:
    assert commands.flags(page) - commands.known_flags() - FOREIGN == set()
    # Keys of encrypted args are no setting of a runner: an application reads them too.
    assert commands.variables(page) - commands.known_variables() - {encryption.VARIABLE} == set()


def test_make_has_the_targets_that_pages_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages.EVERY:
        assert set(re.findall(r"(?:`|^\$ )make ([a-z-]+)", pages.read(page), re.MULTILINE)) <= targets, page


def test_manifests_give_a_runner_time_to_stop() -> None:
    """Each waits for the default grace period and twenty seconds more, as the page says it has to."""
    page = "docs/deploying.md"
    enough = Settings().grace + 20
    (compose, deployment) = commands.manifests(page)
    assert float(compose["services"]["jobs"]["stop_grace_period"].removesuffix("s")) >= enough
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= enough
    names = {each["name"] for each in pod["containers"][0]["env"] if each["name"].startswith("OBAN_")}
    assert names <= commands.known_variables()
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(next(block.text for block in blocks("ini") if block.page == page))
    assert unit.getfloat("Service", "TimeoutStopSec") >= enough


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/internals.md"])
def test_the_files_that_it_names_exist(page: str) -> None:
    files = set(re.findall(r"\w+(?:/\w+)*/\w+\.py\b", pages.read(page)))
    assert len(files) > 20
    assert {name for name in files if not (ROOT / name).is_file() and not (ROOT / "oban_sa" / name).is_file()} == set()


def test_every_fixture_for_several_files_is_described() -> None:
    text = pages.read("CONTRIBUTING.md")
    for conftest in (ROOT / "tests").rglob("conftest.py"):
        for decorated in re.findall(r"@pytest\.fixture.*\n(?:async )?def (\w+)", conftest.read_text()):
            name = decorated.removesuffix("_fixture")
            assert f"`{name}`" in text, f"CONTRIBUTING.md does not say what {conftest.parent.name}'s {name} gives"
