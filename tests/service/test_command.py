"""The commands as a newcomer meets them: what they teach, what they refuse and how they end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

import oban_sa.catalog.version
import oban_sa.migrations
from oban_sa.cli import group
from oban_sa.service import imports
from oban_sa.service.command import command
from oban_sa.service.signals import stoppable
from oban_sa.service.usage import ELSEWHERE
from oban_sa.settings.settings import Settings
from tests.ownserver import OwnServer
from tests.public.commands import context_of
from tests.support import eventually, forked, isolate, plain_url, run_python, sync_url

pytestmark = pytest.mark.usefixtures("unchanged_logging")

JOBS = """
import asyncio
from pathlib import Path
from oban_sa import job

@job()
async def write(name: str) -> None:
    Path(name).write_text("done")

@job()
async def rest(seconds: float) -> None:
    await asyncio.sleep(seconds)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an environment without settings."""
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    return isolate(monkeypatch, tmp_path)


def run(*words: str, environ: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, words, env=environ, prog_name="python -m oban_sa.runner")


def refused(*words: str, code: int, environ: dict[str, str] | None = None) -> str:
    """What stands on stderr after a refusal, without `Error: `; nothing else may be said and no traceback shown."""
    result = run(*words, environ=environ)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")
    return result.stderr.removeprefix("Error: ").rstrip("\n")


# What it teaches


def test_help_teaches_with_examples_that_name_real_flags() -> None:
    text = run("--help").output
    examples = re.findall(r"python -m oban_sa\.runner (.+)", text)
    assert len(examples) >= 5
    known = {name for parameter in command.params for name in parameter.opts}
    assert {flag for example in examples for flag in re.findall(r"--[\w-]+", example)} <= known


def test_every_setting_has_a_flag_and_says_its_variable() -> None:
    text = re.sub(r"\s+", " ", run("--help").output)
    for each in fields(Settings):
        if each.name not in ("origins", "crontab", "connections"):  # a crontab is too long for a flag
            name = {"imports": "import", "schemas": "schema"}.get(each.name, each.name)
            assert f"--{name.replace('_', '-')} " in text
            if name not in ("until_idle", "dry_run"):
                assert f"[OBAN_{name.upper()}]" in text


def test_without_a_database_all_ways_to_give_one_are_named() -> None:
    assert refused(code=2) == (
        "no database is given; name one in any of these ways:\n"
        "  flag         --database-url postgresql://user:password@host:5432/name\n"
        "  environment  OBAN_DATABASE_URL=postgresql://user:password@host:5432/name\n"
        '  file         database_url = "postgresql://user:password@host:5432/name"   in oban.toml,\n'
        "               or below [tool.oban] in pyproject.toml\n"
        "Or try it without one of your own: --embedded starts a private PostgreSQL in ./.oban"
    )


# Settings


@pytest.mark.parametrize(
    ("words", "environ", "message"),
    [
        (["--queues", "mail"], {}, "--queues: 'mail' is not a queue and its limit; write mail:10, several with commas"),
        (
            [],
            {"OBAN_QUEUES": "a:b"},
            "OBAN_QUEUES: the queue 'a' has the limit 'b', which is not a whole number; write",
        ),
        (["--log-level", "loud"], {}, "--log-level: 'loud' is not one of debug, info, warning, error, critical"),
        (["--config", "gone.toml"], {}, "--config: there is no file 'gone.toml'"),
        (["--grace", "a while"], {}, "--grace: "),
        (["--database-url", "mysql://u:pw@h/d"], {}, "'mysql://u:***@h/d' is not the URL of a PostgreSQL database"),
        (["--database-url", "postgresql://u:pw@h:port/d"], {}, "'postgresql://u:***@h:port/d' is not a URL"),
        (
            ["--database-url", "postgresql://h/d", "--listen-url", "mysql://h/d"],
            {},
            "'mysql://h/d' is not the URL of a",
        ),
        (["--database-url", "localhost/shop"], {}, "--database-url: 'localhost/shop' is not a URL; write for example"),
        (
            ["--prometheus", "--database-url", "postgresql://h/d"],
            {},
            "--prometheus counts what is served at /metrics, and no port is given; add --health-port 8080",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_wrong_usage(words: list[str], environ: dict[str, str], message: str) -> None:
    assert refused(*words, environ=environ, code=2).startswith(message)


def test_an_unknown_flag_is_answered_with_the_nearest() -> None:
    result = run("--queus", "a:1")
    assert result.exit_code == 2
    assert "--queues" in result.stderr


def test_a_dry_run_shows_settings_workers_and_no_password(folder: Path, database_url: str) -> None:
    (folder / "dryjobs.py").write_text(JOBS)
    (folder / "oban.toml").write_text('name = "Shop"')
    url = plain_url(database_url) + "?password=hush"
    result = run("--dry-run", "--import", "dryjobs", "--database-url", url, environ={"OBAN_GRACE": "3"})
    assert result.exit_code == 0, result.output
    lines = [re.sub(r"\s{2,}", "  ", line) for line in result.stdout.splitlines()]
    assert "grace  3  OBAN_GRACE" in lines
    assert "name  Shop  oban.toml: name" in lines
    assert "imports  dryjobs  --import" in lines
    assert "worker dryjobs.write  queue default" in lines
    assert lines[-1] == "Everything is in place; no job was run."
    assert "hush" not in result.output


# Imports


def test_a_runner_that_serves_no_queue_of_its_workers_says_so(folder: Path, database_url: str) -> None:
    (folder / "mails.py").write_text(JOBS.replace("@job()", '@job(queue="mailers")'))
    dry = ["-m", "oban_sa.runner", "--dry-run", "--import", "mails", "--database-url", plain_url(database_url)]
    said = run_python(*dry, cwd=folder)
    assert said.returncode == 0, said.stderr
    assert (
        "this runner serves default, but the imported workers put their jobs into mailers; "
        "those are served with --queues mailers:10"
    ) in said.stderr
    assert "this runner serves" not in run_python(*dry, "--queues", "other:1,mailers:2", cwd=folder).stderr


def test_the_current_folder_is_looked_into_by_a_console_script_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shop_here.py").write_text("")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    imports.load(["shop_here"])
    assert sys.modules.pop("shop_here").__file__ == str(folder / "shop_here.py")


def test_a_missing_module_is_named_and_where_it_was_looked_for(folder: Path) -> None:
    assert refused("--import", "shop_jobs", code=2) == (
        "--import: there is no module 'shop_jobs'\n"
        f"It was looked for in {folder} and among the installed packages; start the runner in the folder that holds "
        "'shop_jobs', or install it."
    )


def test_a_missing_module_is_answered_with_a_similar_one(folder: Path) -> None:
    (folder / "shopjobs.py").write_text("")
    assert refused("--import", "shopjob", code=2).startswith(
        "--import: there is no module 'shopjob'; did you mean 'shopjobs'?"
    )


def test_a_missing_module_in_a_package_is_told_from_a_missing_package(folder: Path) -> None:
    (folder / "shopa").mkdir()
    (folder / "shopa" / "__init__.py").write_text("")
    (folder / "shopa" / "jobs.py").write_text("")
    assert refused("--import", "shopa.job", code=2) == (
        "--import: there is no module 'job' in the package 'shopa'; did you mean 'shopa.jobs'?"
    )
    assert refused("--import", "shopa.jobs.mail", code=2) == (
        "--import: there is no module 'shopa.jobs.mail', because 'shopa.jobs' is a module and not a package"
    )


def test_the_source_that_named_a_missing_module_is_named(folder: Path) -> None:
    (folder / "oban.toml").write_text('import = ["gonejobs"]')
    assert refused(code=2).startswith("oban.toml: import: there is no module 'gonejobs'")
    assert refused(environ={"OBAN_IMPORT": "gonejobs"}, code=2).startswith("OBAN_IMPORT: there is no module 'gonejobs'")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("needs", "import nosuchpackage", "ModuleNotFoundError: No module named 'nosuchpackage'"),
        ("raises", "raise KeyError('SECRET_KEY')", "KeyError: 'SECRET_KEY'"),
        ("leaves", "import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_fails_is_told_from_one_that_is_missing(folder: Path, name: str, code: str, message: str) -> None:
    (folder / f"shop_{name}.py").write_text(f"x = 1\n{code}\n")
    assert refused("--import", f"shop_{name}", code=1) == (
        f"--import: the module 'shop_{name}' exists but could not be imported: {message}\n"
        f'  File "{folder}/shop_{name}.py", line 2: {code}'
    )


def test_a_module_that_is_not_python_is_refused_with_the_place(folder: Path) -> None:
    (folder / "shop_syntax.py").write_text("def x(:\n")
    assert refused("--import", "shop_syntax", code=1) == (
        "--import: the module 'shop_syntax' exists but could not be imported: SyntaxError: invalid syntax\n"
        f'  File "{folder}/shop_syntax.py", line 1'
    )


# The database


def test_a_server_that_is_not_there_is_a_failure_in_two_lines() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"postgresql://ada:hush@127.0.0.1:{port}/shop"
    assert refused("--database-url", url, code=1) == (
        f"can't connect to postgresql://ada:***@127.0.0.1:{port}/shop\n"
        f"Nothing listens at 127.0.0.1:{port}; is PostgreSQL running there?"
    )


def test_an_unknown_host_is_a_failure_in_two_lines() -> None:
    assert refused("--database-url", "postgresql://nowhere.invalid/shop", code=1) == (
        "can't connect to postgresql://nowhere.invalid/shop\nThe host 'nowhere.invalid' is unknown"
    )


def test_a_database_that_is_not_there_is_answered_with_how_to_create_it(database_url: str) -> None:
    url = re.sub(r"/[^/]*$", "/no_such_shop", plain_url(database_url))
    assert refused("--database-url", url, code=1).endswith(
        "has no database 'no_such_shop'; create it with: createdb no_such_shop"
    )


@pytest.mark.chaos
def test_a_wrong_password_is_said_and_not_shown(own_server: OwnServer) -> None:
    url = re.sub(r":[^:@/]+@", ":wrong-hush@", plain_url(own_server.url))
    message = refused("--database-url", url, code=1)
    user = re.search(r"//(\w+):", url)
    assert user is not None
    assert message.endswith(f"The password of the user {user[1]!r} is wrong, or missing from the URL")
    assert "hush" not in message


def test_a_database_without_tables_is_answered_with_the_migration(empty_database_url: str) -> None:
    message = refused("--database-url", plain_url(empty_database_url), code=1)
    assert message.startswith("the schema 'public' has no table oban_jobs\n")
    assert f"op.upgrade_oban(version={oban_sa.migrations.LATEST})" in message
    assert message.endswith("run: python -m oban_sa migrate")


def test_another_schema_stands_in_the_migration(database_url: str) -> None:
    message = refused("--database-url", plain_url(database_url), "--schema", "jobs", code=1)
    assert message.startswith("the schema 'jobs' has no table oban_jobs\n")
    assert f"op.upgrade_oban(version={oban_sa.migrations.LATEST}, schema='jobs')" in message
    assert message.endswith("run: python -m oban_sa migrate --schema jobs")


def test_an_old_schema_is_answered_with_the_migration(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = oban_sa.migrations.LATEST
    monkeypatch.setattr(oban_sa.catalog.version, "LATEST", old + 1)
    message = refused("--database-url", plain_url(database_url), code=1)
    assert message.startswith(f"the tables in schema 'public' are at version {old}, and this oban_sa needs {old + 1}\n")
    assert f"op.upgrade_oban(version={old + 1})" in message


# Working


def enqueue(url: str, folder: Path, call: str) -> None:
    code = f"""
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from oban_sa import enqueue
import shopjobs
with Session(create_engine({sync_url(url)!r})) as session, session.begin():
    enqueue(session, shopjobs.{call})
"""
    with forked(["-c", code], cwd=folder) as done:
        assert done.wait() == 0, done.stderr


@pytest.mark.parametrize("module", [["oban_sa.runner"], ["oban_sa", "runner"]])
def test_until_idle_works_off_what_is_there_and_leaves(database_url: str, folder: Path, module: list[str]) -> None:
    (folder / "shopjobs.py").write_text(JOBS)
    enqueue(database_url, folder, "write.new('result')")
    done = run_python(
        "-m", *module, "--until-idle", "--import", "shopjobs",
        env={"OBAN_DATABASE_URL": plain_url(database_url)}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "result").read_text() == "done"
    assert done.stdout == ""
    assert "write completed after" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_gives_unfinished_jobs_back_and_exits_with_0(
    database_url: str, folder: Path, number: signal.Signals
) -> None:
    (folder / "shopjobs.py").write_text(JOBS)
    enqueue(database_url, folder, "rest.new(60)")
    words = ["-m", "oban_sa.runner", "--import", "shopjobs", "--grace", "0.1", "--log-level", "debug"]
    with forked(words, env={"OBAN_DATABASE_URL": plain_url(database_url)}, cwd=folder) as runner:
        await runner.says("rest started")
        runner.send(number)
        assert await runner.ended() == 0
        await runner.says("given back")
    engine = create_engine(sync_url(database_url))
    with engine.connect() as connection:
        row = connection.execute(text("SELECT state, attempt FROM oban_jobs")).one()
    engine.dispose()
    assert tuple(row) == ("available", 0)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_leaves_at_once(database_url: str, folder: Path, second: signal.Signals) -> None:
    (folder / "shopjobs.py").write_text(JOBS)
    enqueue(database_url, folder, "rest.new(60)")
    words = ["-m", "oban_sa.runner", "--import", "shopjobs", "--grace", "50", "--log-level", "debug"]
    with forked(words, env={"OBAN_DATABASE_URL": plain_url(database_url)}, cwd=folder) as runner:
        await runner.says("rest started")
        runner.terminate()
        await runner.says("SIGTERM received")
        # Some managers of services signal every process, and a supervisor among them passes it on.
        runner.terminate()
        assert runner.returncode is None

        def again() -> bool:
            runner.send(second)
            return runner.returncode is not None

        await eventually(again)
        assert await runner.ended(within=10) == 1
        await runner.says("leaving at once")


async def test_a_signal_before_there_is_anything_to_stop_just_leaves() -> None:
    reached: list[str] = []
    async with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        reached.append("the end of the block")
    assert reached == []


async def test_a_signal_calls_the_way_to_stop_once() -> None:
    asked: list[int] = []
    event = asyncio.Event()

    def stop() -> None:
        asked.append(1)
        event.set()

    async with stoppable() as stop_with:
        stop_with(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        await event.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
    assert asked == [1]


@pytest.mark.chaos
def test_embedded_prints_the_url_and_makes_the_tables_itself(folder: Path, run_folder: Path) -> None:
    (folder / "shopjobs.py").write_text(JOBS)
    data = run_folder / "command-embedded"
    done = run_python(
        "-m", "oban_sa.runner", "--embedded", str(data), "--until-idle", "--import", "shopjobs", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"postgresql://\S+", done.stdout.strip())
    assert "the tables of the private database are up to date" in done.stderr
    password = re.search(r":([^:@/]+)@", done.stdout)
    assert password is None or password[1] not in done.stderr


# The command line for people


def people(*words: str) -> Result:
    return CliRunner().invoke(group, words, prog_name="python -m oban_sa")


def test_the_group_lists_its_commands_and_the_first_steps() -> None:
    result = people("--help")
    assert result.exit_code == 0
    assert "python -m oban_sa migrate --database-url" in result.output
    assert re.search(r"^  migrate +Make the tables", result.output, re.MULTILINE)
    assert re.search(r"^  runner +Work on jobs", result.output, re.MULTILINE)


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    result = people("migrat")
    assert result.exit_code == 2
    assert "there is no command 'migrat'; did you mean 'migrate'? (there are " in result.stderr


def test_a_file_is_all_it_takes_to_add_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import oban_sa.cli

    (tmp_path / "greet.py").write_text("import click\n@click.command()\ndef command(): click.echo('hello')\n")
    (tmp_path / "_private.py").write_text("raise RuntimeError('not a command')\n")
    monkeypatch.setattr(oban_sa.cli, "__path__", [*oban_sa.cli.__path__, str(tmp_path)])
    assert people("greet").output == "hello\n"
    listed = people("--help")
    assert listed.exit_code == 0
    assert "private" not in listed.output


def test_migrate_makes_the_tables_once_and_drops_them_when_asked(empty_database_url: str) -> None:
    where = ("--database-url", plain_url(empty_database_url))
    latest = oban_sa.migrations.LATEST
    assert people("migrate", *where).output == f"The tables in schema 'public' are new, now at version {latest}.\n"
    assert people("migrate", *where).output == (
        f"The tables in schema 'public' were up to date already (version {latest}).\n"
    )
    assert run("--dry-run", *where).exit_code == 0
    declined = CliRunner().invoke(group, ["migrate", *where, "--downgrade"], input="n\n")
    assert declined.exit_code == 1
    assert run("--dry-run", *where).exit_code == 0
    dropped = people("migrate", *where, "--downgrade", "--yes")
    assert dropped.output == "Schema 'public' has no tables of oban_sa any more.\n"
    assert run("--dry-run", *where).exit_code == 1


def test_migrate_prints_sql_without_a_database(empty_database_url: str) -> None:
    result = people("migrate", "--sql", "--schema", "jobs")
    assert result.exit_code == 0, result.output
    with psycopg.connect(plain_url(empty_database_url), autocommit=True) as connection:
        # One by one, as psql does: CREATE INDEX CONCURRENTLY refuses to run among others.
        for statement in result.stdout.split(";\n\n"):
            connection.execute(statement.encode())
    assert run("--dry-run", "--schema", "jobs", "--database-url", plain_url(empty_database_url)).exit_code == 0


def test_migrate_says_what_a_user_may_not_do(empty_database_url: str) -> None:
    engine = create_engine(sync_url(empty_database_url), isolation_level="AUTOCOMMIT")
    role = "oban_test_nobody"
    with engine.connect() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {role}"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'hush'"))
        connection.execute(text("REVOKE ALL ON SCHEMA public FROM PUBLIC"))
    try:
        url = re.sub(r"//[^@]*@", f"//{role}:hush@", plain_url(empty_database_url))
        result = people("migrate", "--database-url", url)
        assert result.exit_code == 1
        assert result.stderr.startswith(
            f"Error: the user '{role}' is not allowed to do this in postgresql://{role}:***@"
        )
        assert "permission denied" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP ROLE IF EXISTS {role}"))
        engine.dispose()


def test_migrate_without_a_database_names_all_ways_to_give_one() -> None:
    result = people("migrate")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no database is given; name one in any of these ways:")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--concurrency", "5"], "there is no --concurrency: how many jobs run at once is said for each queue"),
        (["-c", "5"], "there is no -c: how many jobs run at once"),
        (["--sesions", "a:b"], "--sessions"),
        (["myapp.jobs"], "'myapp.jobs' belongs to no flag; a module with workers is named with --import myapp.jobs"),
        (["a-b"], "'a-b' belongs to no flag; a module with workers is named with --import myapp.jobs"),
    ],
)
def test_what_no_flag_is_named_is_answered_with_the_flag_that_is_meant(typed: list[str], words: str) -> None:
    result = CliRunner().invoke(command, typed)
    assert result.exit_code == 2
    assert words in result.output


def test_the_help_has_every_flag_once_and_those_about_the_command_last() -> None:
    shown = re.findall(r"^  (--[\w-]+|-h)", CliRunner().invoke(command, ["--help"]).output, re.MULTILINE)
    assert sorted(shown) == sorted(option.opts[0] for option in command.get_params(context_of(command)))
    assert shown[-2:] == ["--config", "-h"]


def test_every_answer_to_a_foreign_flag_names_flags_that_exist() -> None:
    known = {name for option in command.params for name in option.opts}
    for foreign, words in ELSEWHERE.items():
        assert foreign not in known
        assert set(re.findall(r"--[\w-]+", words)) <= known


def test_the_name_that_was_typed_stands_in_the_help() -> None:
    assert run_python("-m", "oban_sa", "--help").stdout.startswith("Usage: python -m oban_sa [OPTIONS]")
