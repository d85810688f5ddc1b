"""Requests that nobody would send by hand: never an error of the server, never SQL, never HTML of a value.

`OBAN_TEST_REQUESTS=10000` sends so many.
"""

from __future__ import annotations

import asyncio
import os
import random
from urllib.parse import quote, urlencode

import pytest

from oban_sa import Job
from tests.web.conftest import Web, failed

REQUESTS = int(os.environ.get("OBAN_TEST_REQUESTS", "2000"))
MARK = "<zq x='1' y=\"2\">"
"""What no page may contain as it is."""

FIELDS = ["state", "queue", "worker", "tag", "node", "priority", "id", "error", "since", "until", "args.a", "meta.b.c"]
BROKEN = ["args", "args.", "args..a", "sate", "queue.x", "__class__", "id.id", "-", "--", ":", "::", "{{7*7}}"]
VALUES = [
    *("discarded", "available,executing", "mailers", "17", "0", "-1", "2h", "yesterday", "2026-11-01", "Charge"),
    *("'; DROP TABLE oban_jobs; --", "%", "_", "\\", "\\'", "$1", ":x", "%(x)s", "{x}", "NULL", "'", '"', '""', ","),
    *("\0", "\x1b[31m", "\u202e", "é", "𝒳", "\ud800", "9" * 30, "1e400", "NaN", "[", "{", '{"a":1}', "true", "null"),
    *(MARK, f'"{MARK}"', "a" * 300, "infinity", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00+23:59", "1000000000d"),
    *('"\\u0000"', '"a\\"b"', "1,2,3," * 50, "../../etc/passwd", "\r\nSet-Cookie: a=b", "-9223372036854775809"),
]
NAMES = [
    *("verb", "id", "q", "before", "sure", "single", "total", "done", "typed", "more", "queue", "node", "limit", "key"),
    *("name", "priority", "max_attempts", "tags", "scheduled_at", "args", "meta", "n", "worker", "state"),
]
VERBS = ["retry", "cancel", "delete", "pause", "resume", "scale", "stop", "sequence", "enqueue", ""]
FLOW = "00000000-0000-7000-8000-000000000000"


def query(draw: random.Random) -> str:
    terms = []
    for _ in range(draw.randrange(4)):
        field = draw.choice(FIELDS * 3 + BROKEN)
        values = ",".join(draw.choice(VALUES) for _ in range(draw.choice([1, 1, 2])))
        terms.append(draw.choice(["", "", "-"]) + draw.choice([f"{field}:{values}", f"{field}:{values}", values]))
    return " ".join(terms)


def cursor(draw: random.Random) -> str:
    return draw.choice(["", "17", "17,2026-11-01T00:00:00+00:00", "17,0001-01-01T00:00:00+23:00", *VALUES])


def request(draw: random.Random, job_id: int) -> tuple[str, str, list[tuple[str, str]]]:
    """A method, a path, and the fields of a form."""
    paths = ["/", "/", "/", "/bulk", "/queues", "/nodes", "/crons", "/workflows", "/metrics", "/health"]
    paths += [f"/workflows/{FLOW}", "/metrics"]
    paths += [f"/jobs/{job_id}", f"/jobs/{job_id}/raw", f"/jobs/{job_id}/edit", "/jobs", "/static/x/y"]
    path = draw.choice(paths)
    if draw.random() < 0.1:
        path = draw.choice(["/jobs/", "/workflows/", "/static/x/", "/", f"/jobs/{job_id}/"]) + quote(
            draw.choice(VALUES), safe="", errors="surrogatepass"
        )
    if draw.random() < 0.5:
        given = {"q": query(draw), "before": cursor(draw), "verb": draw.choice(VERBS), "done": draw.choice(VALUES)}
        given |= {
            "span": draw.choice(["1h", "30d", *VALUES]),
            "queue": draw.choice(VALUES),
            "worker": draw.choice(VALUES),
        }
        kept = [(name, value) for name, value in given.items() if draw.random() < 0.7]
        return "GET", f"{path}?{urlencode(kept, errors='surrogatepass')}", []
    form = [(name, draw.choice(VALUES)) for name in draw.sample(NAMES, draw.randrange(6))]
    form += [("verb", draw.choice(VERBS)), ("q", query(draw)), ("id", draw.choice([str(job_id), *VALUES]))]
    form += [("before", cursor(draw)), ("total", draw.choice(["1", *VALUES]))]
    return "POST", path, draw.sample(form, draw.randrange(len(form)))


@pytest.mark.parametrize("seed", range(4))
async def test_no_request_is_an_error_of_the_server(web: Web, seed: int) -> None:
    draw = random.Random(seed)
    (job_id, *_) = await web.add(
        failed(MARK, queue=MARK, args={MARK: MARK}, meta={"b": {"c": MARK}}, tags=[MARK], errors=[{"error": MARK}]),
        *(Job("shop.Mail", priority=number) for number in range(3)),
    )
    codes: dict[int, int] = {}

    async def send(number: int) -> None:
        method, path, form = request(draw, job_id)
        body = urlencode(form, errors="surrogatepass")
        answer = await web.client.request(
            method, path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (seed, number, method, path, form, answer.text[:2_000])
        if "html" in answer.headers.get("content-type", ""):
            assert MARK not in answer.text, (seed, number, method, path, form)
        assert "set-cookie" not in answer.headers

    for first in range(0, REQUESTS // 4, 4):
        await asyncio.gather(*(send(first + each) for each in range(4)))
    assert codes.keys() >= {200, 303, 400, 404}
    assert codes[200] > REQUESTS // 40
    assert (await web.sql("SELECT to_regclass('oban_jobs') IS NOT NULL"))[0][0]
    assert [row[0] for row in await web.sql("SELECT DISTINCT worker FROM oban_jobs ORDER BY 1") if row[0] != MARK] in (
        ["shop.Mail"],
        [],
    )
