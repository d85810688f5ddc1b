"""Where settings come from, which source wins, and what is said about those that are wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.describe.redaction import redacted, safe
from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.jobs.limits import Queue, Rate
from oban_sa.jobs.retention import Prune, Retention
from oban_sa.settings.queues import parse_queues
from oban_sa.settings.settings import Settings, keyword, load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that the repository's own files are not read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(
    environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None, file: str | None = None
) -> str:
    with pytest.raises(InvalidOption) as caught:
        load(file, environ or {}, flags)
    return str(caught.value)


# Which source wins


def test_without_any_source_there_are_defaults() -> None:
    settings = load(environ={})
    assert settings.queues == {"default": 10}
    assert settings.schema == "public"
    assert settings.name == "Oban"
    assert (settings.grace, settings.heartbeat_every, settings.dead_after) == (15.0, 5.0, 30.0)
    assert settings.database_url is None
    assert settings.origins == {}


def test_the_node_is_named_after_host_and_process() -> None:
    import os
    import socket

    assert load(environ={}).node == f"{socket.gethostname()}.{os.getpid()}"


def test_the_environment_wins_over_the_file_and_a_flag_over_both(folder: Path) -> None:
    (folder / "oban.toml").write_text('schema = "file"\nname = "file"\nnode = "file"')
    settings = load(environ={"OBAN_NAME": "environment", "OBAN_NODE": "environment"}, flags={"node": "flag"})
    assert (settings.schema, settings.name, settings.node) == ("file", "environment", "flag")
    assert settings.origins == {"schema": "oban.toml: schema", "name": "OBAN_NAME", "node": "--node"}


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_does_not_override_the_file(folder: Path, empty: str) -> None:
    (folder / "oban.toml").write_text('schema = "jobs"\nqueues = "mailers:5"')
    settings = load(environ={"OBAN_SCHEMA": empty, "OBAN_QUEUES": empty, "OBAN_PREFIX": empty})
    assert settings.schema == "jobs"
    assert settings.queues == {"mailers": 5}


def test_a_flag_that_was_not_given_does_not_override() -> None:
    assert load(environ={"OBAN_SCHEMA": "jobs"}, flags={"schema": None, "imports": ()}).schema == "jobs"


def test_queues_of_a_later_source_replace_all_of_an_earlier_one() -> None:
    assert load(environ={"OBAN_QUEUES": "a:1,b:2"}, flags={"queues": "c:3"}).queues == {"c": 3}


def test_synonyms_mean_the_same() -> None:
    settings = load(environ={"OBAN_DSN": "postgresql://h/d", "OBAN_PREFIX": "jobs", "OBAN_IMPORT": "a.b,c"})
    assert settings.database_url == "postgresql://h/d"
    assert settings.schema == "jobs"
    assert settings.imports == ("a.b", "c")


def test_synonyms_that_agree_are_fine_and_those_that_disagree_are_refused() -> None:
    assert load(environ={"OBAN_SCHEMA": "a", "OBAN_PREFIX": "a"}).schema == "a"
    message = refused({"OBAN_SCHEMA": "a", "OBAN_PREFIX": "b"})
    assert "mean the same and disagree; give only one of them" in message
    assert "OBAN_SCHEMA" in message
    assert "OBAN_PREFIX" in message


# Files


def test_the_table_in_pyproject_is_read(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.oban]\nschema = "jobs"')
    settings = load(environ={})
    assert settings.schema == "jobs"
    assert settings.origins == {"schema": "pyproject.toml: [tool.oban]: schema"}


def test_a_pyproject_of_somebody_else_is_not_looked_at(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.other]\nschema = "jobs"')
    assert load(environ={}).schema == "public"


def test_oban_toml_is_preferred_to_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.oban]\nschema = "project"\n')
    (folder / "oban.toml").write_text('schema = "own"')
    assert load(environ={}).schema == "own"


def test_a_file_that_is_named_is_read_instead(folder: Path) -> None:
    (folder / "oban.toml").write_text('schema = "here"')
    (folder / "other.toml").write_text('schema = "there"')
    assert load("other.toml", {}).schema == "there"
    assert load(environ={"OBAN_CONFIG": "other.toml"}).schema == "there"
    assert load("oban.toml", {"OBAN_CONFIG": "other.toml"}).schema == "here"


def test_a_file_may_hold_tables_numbers_lists_and_dashes(folder: Path) -> None:
    (folder / "oban.toml").write_text("""
        database-url = "postgresql://h/d"
        import = ["myapp.jobs", "myapp.more"]
        grace = 2.5
        dead_after = "1 minute"
        embedded = false
        [queues]
        default = 10
        mailers = { limit = 5 }
    """)
    settings = load(environ={})
    assert settings.database_url == "postgresql://h/d"
    assert settings.imports == ("myapp.jobs", "myapp.more")
    assert (settings.grace, settings.dead_after) == (2.5, 60.0)
    assert settings.queues == {"default": 10, "mailers": 5}


def test_a_file_that_is_not_there_is_refused() -> None:
    assert refused(file="gone.toml") == "--config: there is no file 'gone.toml'"
    assert refused({"OBAN_CONFIG": "gone.toml"}) == "OBAN_CONFIG: there is no file 'gone.toml'"


def test_a_file_that_is_not_toml_is_refused_with_the_place(folder: Path) -> None:
    (folder / "oban.toml").write_text("queues = default:10")
    assert refused().startswith("oban.toml: not valid TOML: ")
    assert "line 1" in refused()


# What is refused


def test_an_unknown_key_is_refused_with_the_nearest_and_its_file(folder: Path) -> None:
    (folder / "oban.toml").write_text("queus = 'default:10'")
    assert refused() == "oban.toml: unknown setting 'queus'; did you mean 'queues'?"
    (folder / "other.toml").write_text("database-ulr = 'x'")
    assert refused(file="other.toml") == "other.toml: unknown setting 'database-ulr'; did you mean 'database_url'?"


def test_an_unknown_flag_of_the_caller_is_refused() -> None:
    assert refused(flags={"quues": "a:1"}) == "unknown setting 'quues'; did you mean 'queues'?"


def test_what_makes_sense_only_as_a_flag_is_refused_in_a_file(folder: Path) -> None:
    (folder / "oban.toml").write_text("until_idle = true")
    assert refused() == "oban.toml: until_idle is no setting; give it as the flag --until-idle"


def test_a_misspelled_variable_is_refused() -> None:
    assert refused({"OBAN_QUEUE": "a:1"}) == "OBAN_QUEUE: there is no such variable; did you mean OBAN_QUEUES?"
    assert "did you mean OBAN_IMPORT?" in refused({"OBAN_IMPORTS": "a"})
    assert "did you mean OBAN_CONFIG?" in refused({"OBAN_CONFG": "a"})


@pytest.mark.parametrize("variable", ["OBAN_PORT", "OBAN_SERVICE_HOST", "OBAN_PORT_5432_TCP", "OBAN_TEST_DATABASE_URL"])
def test_variables_of_others_are_left_alone(variable: str) -> None:
    assert load(environ={variable: "tcp://10.0.0.1:80"}) == load(environ={})


ONE_NUMBER = (
    "is not a queue and how many of its jobs run at once on each node; write for example default:10,mailers:5. Limits "
    "of all nodes together are said in oban.toml, or by `queues limit`"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default", "'default' is not a queue and its limit; write default:10, several with commas between"),
        ("default=10", "'default=10' is not a queue and its limit; write default:10, several with commas between"),
        ("a:1,b", "'b' is not a queue and its limit; write b:10, several with commas between"),
        ("a:1,,b:2", "there is nothing between two commas of 'a:1,,b:2'; write for example default:10,mailers:5"),
        (":5", "a queue has no name; write for example default:10,mailers:5"),
        ("a:", "the queue 'a' has the limit '', which is not a whole number; write a:10"),
        ("a:1.5", "the queue 'a' has the limit '1.5', which is not a whole number; write a:10"),
        ("a:-1", "the queue 'a' has the limit '-1', which is not a whole number; write a:10"),
        ("a:1 b:2", f"'a:1 b:2' {ONE_NUMBER}"),
        ("a:{limit=1}", f"'a:{{limit=1}}' {ONE_NUMBER}"),
        ("a:0", "the queue 'a' has the limit 0; it runs 1 to 100000 jobs at once"),
        ("a:1,a:2", "the queue 'a' is named twice"),
        ("", "no queue is named; write for example default:10,mailers:5"),
    ],
)
def test_unknown_syntax_of_queues_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_queues(text)
    assert str(caught.value) == message


def test_a_queue_of_128_characters_is_refused() -> None:
    assert parse_queues("q" * 127 + ":1") == {"q" * 127: 1}
    with pytest.raises(InvalidOption, match="a name of 128 characters; at most 127 are possible"):
        parse_queues("q" * 128 + ":1")


def test_a_table_of_queues_is_checked_too() -> None:
    with pytest.raises(InvalidOption, match="limit True, which is not a whole number"):
        parse_queues({"a": True})
    with pytest.raises(InvalidOption, match="unknown option 'limti'; did you mean 'limit'"):
        parse_queues({"a": {"limti": 4}})
    with pytest.raises(InvalidOption, match="10 names no queues"):
        parse_queues(10)
    with pytest.raises(InvalidOption, match="no queue is named"):
        parse_queues({})


@given(st.dictionaries(st.text("abc_-.0", min_size=1, max_size=9), st.integers(1, 100_000), min_size=1))
def test_queues_are_read_as_they_are_written(queues: dict[str, int]) -> None:
    assert parse_queues(", ".join(f"{name}:{limit}" for name, limit in queues.items())) == queues
    assert parse_queues(queues) == queues


def test_a_bad_value_names_its_source(folder: Path) -> None:
    assert refused({"OBAN_QUEUES": "x"}).startswith("OBAN_QUEUES: 'x' is not a queue")
    assert refused(flags={"queues": "x"}).startswith("--queues: 'x' is not a queue")
    assert refused(flags={"imports": ["a b"]}).startswith("--import: 'a b' is not the name of a module")
    assert refused(flags={"log_level": "inof"}).startswith("--log-level: 'inof' is not one of debug, info")
    assert refused(flags={"log_level": "inof"}).endswith("; did you mean 'info'?")
    (folder / "oban.toml").write_text("queues = 'x'")
    assert refused().startswith("oban.toml: queues: 'x' is not a queue")


def test_a_file_given_where_a_module_belongs_is_answered_with_the_module() -> None:
    assert refused(flags={"imports": ["myapp/jobs.py"]}) == (
        "--import: 'myapp/jobs.py' is not the name of a module; write for example myapp.jobs"
    )


def test_periods_that_make_no_sense_are_refused() -> None:
    assert refused({"OBAN_GRACE": "soon"}).startswith("OBAN_GRACE: 'soon' is not a span of time")
    assert refused({"OBAN_GRACE": "-1"}).startswith("OBAN_GRACE: ")
    assert refused({"OBAN_POLL_EVERY": "0"}) == "OBAN_POLL_EVERY: 0 seconds is no interval; write for example 1"
    assert load(environ={"OBAN_GRACE": "0"}).grace == 0
    assert issubclass(InvalidPeriod, InvalidOption)


def test_an_age_of_death_close_to_the_heartbeat_is_refused() -> None:
    message = refused({"OBAN_DEAD_AFTER": "9"})
    assert message.startswith("OBAN_DEAD_AFTER: with dead_after 9 and heartbeat_every 5 one late beat")
    assert refused({"OBAN_HEARTBEAT_EVERY": "16"}).startswith("OBAN_HEARTBEAT_EVERY: ")
    assert load(environ={"OBAN_DEAD_AFTER": "10"}).dead_after == 10


def test_keeping_jobs_young_is_switched_off_by_none() -> None:
    assert load(environ={}).keep_young_after == 60
    assert load(environ={"OBAN_KEEP_YOUNG_AFTER": "90"}).keep_young_after == 90
    assert load(environ={"OBAN_KEEP_YOUNG_AFTER": "none"}, flags={"keep_young_after": None}).keep_young_after is None
    assert load(environ={}, flags={"keep_young_after": "None"}).keep_young_after is None


def test_a_schema_too_long_for_the_names_of_channels_is_refused() -> None:
    assert load(environ={"OBAN_SCHEMA": "s" * 49}).schema == "s" * 49
    assert "longer than the 49 bytes" in refused({"OBAN_SCHEMA": "s" * 50})
    assert "longer than the 49 bytes" in refused({"OBAN_SCHEMA": "ß" * 25})


def test_a_libpq_connection_string_is_refused_without_showing_its_password() -> None:
    message = refused({"OBAN_DSN": "host=h password=secret dbname=d"})
    assert message.startswith("OBAN_DSN: 'host=h password=*** dbname=d' is not a URL; write for example postgresql://")


# The private database


def test_embedded_has_a_folder_of_its_own_by_default() -> None:
    assert load(environ={"OBAN_EMBEDDED": "1"}).embedded == Path(".oban")
    assert load(environ={"OBAN_EMBEDDED": "no"}).embedded is None
    assert load(environ={}, flags={"embedded": "/data/pg"}).embedded == Path("/data/pg")


def test_a_database_named_later_replaces_one_of_the_other_kind() -> None:
    url = {"OBAN_DATABASE_URL": "postgresql://h/d"}
    settings = load(environ=url, flags={"embedded": "x"})
    assert (settings.database_url, settings.embedded) == (None, Path("x"))
    settings = load(environ={"OBAN_EMBEDDED": "1"}, flags={"database_url": "postgresql://h/d"})
    assert (settings.database_url, settings.embedded) == ("postgresql://h/d", None)


def test_a_database_of_both_kinds_from_one_source_is_refused() -> None:
    assert refused(flags={"embedded": "x", "database_url": "postgresql://h/d"}) == (
        "--embedded and --database-url both name a database; give only one of them"
    )


# Passwords


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql:///d", "postgresql:///d"),
        ("postgresql://h/d?sslmode=require", "postgresql://h/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=secret&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("postgresql://h/d?sslpassword=secret", "postgresql://h/d?sslpassword=***"),
        ("postgresql://h/d?pass%77ord=secret", "postgresql://h/d?pass%77ord=***"),
        ("postgresql://u:se@cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:se/cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:sec?ret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:s@c?ret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:s:ecret@h/d", "postgresql://u:***@h/d"),
        ("password='my secret' host=h", "password=*** host=h"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert safe(url) == shown


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1))
def test_no_password_however_odd_is_shown(tail: str) -> None:
    password = f"hush{tail}hush"
    assert "hush" not in safe(f"postgresql://user:{password}@host:5432/name")


def test_urls_inside_a_text_are_hidden_too() -> None:
    assert redacted("can't reach postgresql://u:secret@h/d, sorry") == "can't reach postgresql://u:***@h/d, sorry"
    assert redacted("nothing here") == "nothing here"


def test_neither_repr_nor_description_shows_a_password() -> None:
    urls = {"database_url": "postgresql://u:secret@h/d", "listen_url": "postgresql://h/d?password=secret"}
    settings = load(environ={}, flags=urls)
    assert "secret" not in repr(settings)
    assert "secret" not in "\n".join(settings.described())


def test_the_description_says_where_each_setting_came_from(folder: Path) -> None:
    (folder / "oban.toml").write_text('schema = "jobs"')
    lines = {
        line.split()[0]: line.split(maxsplit=1)[1]
        for line in load(environ={"OBAN_GRACE": "20"}, flags={"queues": "a:1,b:2"}).described()
    }
    assert lines["schema"].split(maxsplit=1) == ["jobs", "oban.toml: schema"]
    assert lines["grace"].split() == ["20", "OBAN_GRACE"]
    assert lines["queues"].split() == ["a:1,b:2", "--queues"]
    assert lines["name"].split() == ["Oban", "default"]
    assert lines["database_url"].split() == ["-", "default"]


# The crontab

EVERY_OPTION = """
expression = "30 1 * * MON"
worker = "app.Report"
timezone = "Europe/Berlin"
args = { region = "eu", days = [1, 2] }
queue = "reports"
priority = 3
meta = { team = "sales" }
max_attempts = 5
tags = ["weekly"]
overlap = false
days = "both"
catch_up = "last"
name = "weekly-report"
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("oban.toml", f"[[cron]]{EVERY_OPTION}"),
        ("oban.toml", f"[[crontab]]{EVERY_OPTION}"),
        ("pyproject.toml", f"[[tool.oban.cron]]{EVERY_OPTION}"),
        ("pyproject.toml", f"[[tool.oban.crontab]]{EVERY_OPTION}"),
    ],
)
def test_a_crontab_stands_in_the_file_with_every_option(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    (entry,) = load(environ={}).crontab
    given = {each.name: getattr(entry, each.name) for each in fields(entry) if each.name != "schedule"}
    assert given == tomllib.loads(EVERY_OPTION)
    assert entry.schedule.zone.key == "Europe/Berlin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('expression = "61 * * * *"\nworker = "a"', "minute '61' is out of range"),
        ('expression = "@dayly"\nworker = "a"', "did you mean '@daily'?"),
        ('worker = "a"', "needs an expression"),
        ('expression = "@daily"', 'no worker is named; write for example worker = "myapp.jobs.Report"'),
        ('expression = "@daily"\nworker = 5', "5 is no worker"),
        ('expression = "@daily"\nworker = "a"\npriorty = 1', "did you mean 'priority'?"),
        ('expression = "@daily"\nworker = "a"\ntimezone = "Europe/Berlim"', "did you mean 'Europe/Berlin'?"),
        ('expression = "@daily"\nworker = "a"\noverlap = "no"', "overlap is True or False"),
        ('expression = "@daily"\nworker = "a"\ncatch_up = "lst"', "did you mean 'last'?"),
    ],
)
def test_a_wrong_entry_is_named_by_file_and_number(folder: Path, text: str, said: str) -> None:
    (folder / "oban.toml").write_text(f'[[cron]]\nexpression = "@daily"\nworker = "app.Good"\n[[cron]]\n{text}')
    message = refused()
    assert message.startswith("oban.toml: cron: entry 2: ")
    assert said in message


def test_a_crontab_that_is_no_list_of_tables_is_told_what_to_write(folder: Path) -> None:
    (folder / "oban.toml").write_text('cron = ["0 9 * * *"]')
    assert refused().startswith("oban.toml: cron: entry 1: '0 9 * * *' is no table; write [[cron]]")
    (folder / "oban.toml").write_text(f"[[cron]]{EVERY_OPTION}[[crontab]]{EVERY_OPTION}")
    assert "mean the same and disagree" in refused()


def test_a_crontab_has_no_variable() -> None:
    assert load(environ={"OBAN_CRONTAB": "x", "OBAN_CRON": "@daily"}).crontab == ()


def test_settings_can_be_made_directly() -> None:
    assert Settings(queues={"a": 1}).queues == {"a": 1}


# Pruning, middleware and health


def test_how_long_jobs_are_kept_is_an_age_for_all_or_one_for_each_state() -> None:
    assert load(environ={}).prune == Prune()
    assert load(environ={"OBAN_PRUNE": "2 days"}).prune == Prune(completed=172800, cancelled=172800, discarded=172800)
    settings = load(environ={"OBAN_PRUNE": "2 days"}, flags={"prune": "completed:1h,discarded:never"})
    assert settings.prune == Prune(completed=3600, discarded=None)
    assert load(environ={"OBAN_PRUNE": "never"}).prune is None


def test_a_table_in_the_file_says_how_long_the_jobs_of_queues_and_workers_are_kept(folder: Path) -> None:
    (folder / "oban.toml").write_text(
        """
        [prune]
        completed = { max_age = "1 hour", max_count = 5 }
        archive = "myapp.archive:keep"
        [prune.queues]
        audit = "never"
        [prune.workers."myapp.Send"]
        discarded = "1 day"
        """
    )
    assert load(environ={}).prune == Prune(
        completed=Retention("1 hour", max_count=5),
        queues={"audit": None},
        workers={"myapp.Send": {"discarded": 86400}},
        archive="myapp.archive:keep",
    )
    (folder / "oban.toml").write_text("[prune]\ncompletd = 1")
    assert refused() == "oban.toml: prune: prune has no option 'completd'; did you mean 'completed'?"


def test_middleware_is_named_by_module_and_name_in_its_order(folder: Path) -> None:
    (folder / "oban.toml").write_text('middleware = ["myapp.obs:trace", "myapp.obs:Sentry.report"]')
    assert load(environ={}).middleware == ("myapp.obs:trace", "myapp.obs:Sentry.report")
    assert load(environ={"OBAN_MIDDLEWARE": "a:b, c:d"}).middleware == ("a:b", "c:d")
    assert load(environ={}, flags={"middleware": ("x:y",)}).middleware == ("x:y",)


@pytest.mark.parametrize(
    ("given", "hint"),
    [("myapp.obs.trace", "myapp.obs:trace"), ("trace", "myapp.tracing:trace"), ("a:b:c", "myapp.tracing:trace")],
)
def test_middleware_without_a_module_is_refused_with_what_was_probably_meant(given: str, hint: str) -> None:
    message = refused(flags={"middleware": (given,)})
    assert message == f"--middleware: {given!r} is not a module and a name in it; write for example {hint}"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("myapp.db", "myapp.db:Session, or myapp:db where db is the sessionmaker"),
        ("db", "db:Session"),
        ("myapp.db.Session", "myapp.db:Session"),
    ],
)
def test_a_sessionmaker_without_a_module_is_refused_with_what_was_probably_meant(given: str, hint: str) -> None:
    message = refused(flags={"sessions": given})
    assert message == f"--sessions: {given!r} is not a module and a name in it; write for example {hint}"


def test_the_port_of_health_is_a_number() -> None:
    assert load(environ={}).health_port is None
    settings = load(environ={"OBAN_HEALTH_PORT": "8080", "OBAN_HEALTH_HOST": "0.0.0.0"})
    assert (settings.health_port, settings.health_host) == (8080, "0.0.0.0")
    assert refused(environ={"OBAN_HEALTH_PORT": "http"}) == (
        "OBAN_HEALTH_PORT: 'http' is not the number of a port, such as 8080"
    )
    assert refused(environ={"OBAN_HEALTH_PORT": "tcp://10.0.0.7:80"}).endswith(
        "such as 8080; is a Kubernetes service named so?"
    )
    assert refused(flags={"health_port": "70000"}).startswith("--health-port: 70000 is not the number of a port")


def test_a_queue_in_a_file_may_have_limits_for_all_nodes_together(tmp_path):
    file = tmp_path / "oban.toml"
    file.write_text(
        "[queues]\ndefault = 10\n\n[queues.calls]\nlimit = 20\nglobal-limit = 50\n"
        'by = "partition"\neach = 5\nrate = "60/minute"\nfair = { acme = 3 }\n'
        '[queues.slow]\nglobal_limit = 1\nrate = { n = 5, per = "1 hour", algorithm = "bucket" }\n'
    )
    assert load(file=file, environ={}).queues == {
        "default": 10,
        "calls": Queue(20, global_limit=50, by="partition", each=5, rate="60/minute", fair={"acme": 3}),
        "slow": Queue(10, global_limit=1, rate=Rate(5, per=3600, algorithm="bucket")),
    }


def test_a_queue_without_other_limits_is_a_number():
    assert parse_queues({"a": {"limit": 4}, "b": {}}) == {"a": 4, "b": 10}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"gobal_limit": 4}, "the queue 'calls' has an unknown option 'gobal_limit'; did you mean 'global_limit'?"),
        ({"each": 4}, "the queue 'calls': each=4 is a limit of partitions"),
        ({"rate": "60/minte"}, "the queue 'calls': rate '60/minte'"),
        ({"rate": "60"}, "the queue 'calls': '60' is no rate"),
        ({"by": "args.tenant"}, '@worker(partition="args.tenant")'),
        ({"limit": "x", "global_limit": 4}, "the queue 'calls' has the limit 'x', which is not a whole number"),
        ({"limit": 0, "global_limit": 4}, "it runs 1 to 100000 jobs at once"),
        ({"fair": 3, "by": "partition"}, "True, False or a table of weights"),
        (
            {"limit": "20", "each": 1},
            "the queue 'calls' has the limit '20', which is not a whole number; write limit = 10",
        ),
        ({"weight": "args.points"}, "an unknown option 'weight'; write fair="),
        ({"burst": True}, "the queue 'calls': burst lets a partition exceed `each`"),
        ({"fair": {"acme": 3}}, "the queue 'calls': fair gives weights to partitions, and the queue has none"),
        ({1: 2}, "an unknown option '1'; there are limit, "),
    ],
)
def test_limits_in_a_file_are_refused_with_the_name_of_their_queue(table, message):
    with pytest.raises(InvalidOption) as refused:
        parse_queues({"calls": table})
    assert message in str(refused.value)


def test_the_keyword_takes_numbers_and_queues():
    queues = {"default": 10, "calls": Queue(20, global_limit=50)}
    assert keyword("queues", queues) == queues
    with pytest.raises(InvalidOption, match="write calls:10"):
        keyword("queues", {"calls": {"limit": 20}})


def test_limits_are_shown_behind_how_many_run_at_once():
    settings = Settings(queues={"default": 10, "calls": Queue(20, global_limit=50, rate="60/minute")})
    (line,) = [line for line in settings.described() if line.startswith("queues")]
    assert "default:10,calls:20 (50 in the cluster; 60 in 1 minute)" in line
