"""The fixture `own_server`: chaos tests lean on it."""

from __future__ import annotations

import psycopg
import pytest

from tests.ownserver import OwnServer
from tests.support import plain_url

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_comes_back_under_the_same_url_with_what_was_committed(own_server: OwnServer, end: str) -> None:
    url = own_server.url
    with psycopg.connect(plain_url(url)) as connection:
        connection.execute("SELECT FROM oban_jobs")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    getattr(own_server, end)()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(plain_url(url))
    assert own_server.start() == url
    with psycopg.connect(plain_url(url)) as connection:
        assert connection.execute("SELECT n, current_setting('fsync') FROM kept").fetchone() == (42, "on")
