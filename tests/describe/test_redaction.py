"""Nothing that could be a password is shown, of well-formed URLs and of malformed ones."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oban_sa.describe.redaction import redacted, safe, unambiguous
from oban_sa.errors import InvalidOption
from oban_sa.runner.database.engine import create_engine
from oban_sa.runner.database.failures import explained
from oban_sa.settings.settings import load

FORMS = (
    "postgresql://u:{}@h:5432/d",
    "postgresql://u:{}@h1:5432,h2:5433/d?target_session_attrs=primary",
    "postgresql://:{}@h",
    "postgresql://u:{}@/d?host=/tmp",
    "postgresql+asyncpg://u:{}@[::1]:5432/d",
    "postgresql:/u:{}@h",
    "postgresql:u:{}@h/d",
    "postgres:u:{}@h",
    "postgresql//u:{}@h/d",
    "://u:{}@h/d",
    "u:{}@h/d",
    "u:{}@h:5432",
    "postgresql://u:{}",
    "postgresql://u:{}/d",
    "postgresql://h/d?password={}",
    "postgresql://h/d?user=u&passwd={}",
    "postgresql://h/d?pwd={}&x=1",
    "postgresql://u@h/d?sslpassword={}",
    "postgresql://u:x@h/d?password={}",
    "host=h password={} dbname=d",
    "password = '{}' host=h",
    "host=h user=u passwd={}",
    "PGPASSWORD={} psql -h h",
    "psql 'postgresql://u:{}@h/d'",
    '"postgresql://u:{}@h/d"',
    " postgresql://u:{}@h/d\n",
    "postgresql://u:{} @h/d",
    "postgresql://u: {}@h/d",
    "jdbc:postgresql://h/d?user=u&password={}",
    "mysql://u:{}@h/d",
)
SECRETS = st.builds(
    "hush{}hush".format, st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
)


def write(form: str, secret: str, *, encoded: bool) -> str:
    written = form.format(quote(secret, safe="") if encoded else secret)
    # "postgresql://u:hush@hush" is no form of that password, but the URL of another one and of a host.
    assume(not (form in ("postgresql://u:{}", "postgresql://u:{}/d") and "@" in written))
    return written


def shows(secret: str, text: str) -> bool:
    return any(form in text for form in ("hush", secret, quote(secret, safe="")))


@given(st.sampled_from(FORMS), SECRETS, st.booleans())
def test_no_form_of_a_url_shows_its_password(form: str, secret: str, encoded: bool) -> None:
    written = write(form, secret, encoded=encoded)
    assert not shows(secret, safe(written)), safe(written)


@given(st.sampled_from(FORMS), SECRETS, st.booleans(), st.sampled_from(["database_url", "listen_url"]))
def test_no_message_shows_a_password(form: str, secret: str, encoded: bool, setting: str) -> None:
    written = write(form, secret, encoded=encoded)
    try:
        said = "\n".join(load(environ={f"OBAN_{setting.upper()}": written}).described())
    except InvalidOption as error:
        said = str(error)
    assert not shows(secret, said)
    try:
        create_engine(written.strip())
        failures = [ConnectionRefusedError(), TimeoutError(), FileNotFoundError(), OSError("x")]
        said = "\n".join(str(explained(failure, written.strip())) for failure in failures)
    except InvalidOption as error:
        said = str(error)
    assert not shows(secret, said)


@pytest.mark.parametrize("setting", ["schema", "node", "queues", "health_port", "import", "allow"])
def test_a_url_given_for_another_setting_is_refused_without_its_password(setting: str) -> None:
    try:
        said = "\n".join(load(environ={f"OBAN_{setting.upper()}": "postgresql://u:hush@h:5432/d?x=1"}).described())
    except InvalidOption as error:
        said = str(error)
    assert "hush" not in said


@pytest.mark.parametrize("value", ["postgresql://u:hush\0@h", b"postgresql://u:hush@h", ["postgresql://u:hush@h"]])
def test_what_is_no_text_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(InvalidOption, match="this is not a URL") as refused:
        load(environ={}, flags={"database_url": value})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(postgresql://u:hush@h/d)", "(postgresql://u:***@h/d)"),
        ("from postgresql://u:hush@h/d to mysql://v:hush@i/e.", "from postgresql://u:***@h/d to mysql://v:***@i/e."),
        ("bad 'postgresql://u:hu'sh@h/d'", "bad 'postgresql://u:***@h/d'"),
        ("bad postgresql://u:my hush@h/d here", "bad postgresql://u:***@h/d here"),
        ("see https://example.com/a/b?c=d", "see https://***"),
        ("see postgresql://h:5432/d, a@b", "see postgresql://h:5432/d, a@b"),
    ],
)
def test_urls_are_found_in_a_text(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("url", "one"),
    [
        ("postgresql://u:p@h:5432/d?application_name=a", True),
        ("postgresql://h/d", True),
        ("postgresql://u:p@w@h/d", False),
        ("postgresql://u:p@w/x@h/d", False),
        ("u:p@h", False),
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_known(url: str, one: bool) -> None:
    assert unambiguous(url) is one
