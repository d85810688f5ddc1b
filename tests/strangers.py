"""Rows for each table that no program of ours would write, and that another program's SQL may."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st


class Long(str):
    """A text that is not shown in full where a test fails."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self[:20]!r} and so on, {len(self)} characters>"


MOMENTS = (
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00 BC",
    "0044-03-15 12:00:00 BC",
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999",
)
DEPTH = 3_000
DEEP = Long('{"a":[' * (DEPTH // 2) + "1" + "]}" * (DEPTH // 2))
JSON = (
    "null",
    "[]",
    '"text"',
    '"12"',
    "7",
    "true",
    "1e400",
    "[1e400, -1e-400, 1e20, 12345678901234567890123]",
    '{"n": 12345678901234567890123, "f": 1e20, "huge": 1e400}',
    Long('{"digits": ' + "9" * 5_000 + ', "fraction": ' + "9" * 400 + ".5}"),
    DEEP,
    '{"recorded": true, "return": 5}',
    '{"recorded": true, "return": "gw"}',
    '{"recorded": [], "return": {}}',
    '{"dead_after": 1e400}',
    '{"dead_after": -5}',
    '{"dead_after": "\\u001b"}',
    '{"limit": 1e400, "local_limit": true, "paused": []}',
    '{"Oban": {"limit": 1e400, "limit_at": "z", "paused": "no", "paused_at": 9}}',
    '{"Oban": []}',
    '{"last_job_id": "x"}',
    '{"last_job_id": 1e30}',
    '{"rescued": 1e30, "cancel_requested": []}',
    json.dumps({"partition": "\u001b[2J", "sequence": "\u0007", "halts": True, "on_failure": 7}),
    '{"partition": [], "sequence": {}, "halts": null, "weight": "x"}',
    '{"partition": "", "sequence": "", "weight": 1e30}',
    '{"workflow_id": "00000000-0000-4000-8000-000000000001", "lane": 3}',
    '{"workflow_id": 7, "lane": "x", "retried": "99999999999"}',
    '{"workflow_id": "x", "lane": 1e30, "retried": {}}',
    '{"lane": -1, "retried": -5}',
    '{"lane": 7.5, "unique_key": "x"}',
    json.dumps({"\u001b[31m": "\u202e\u009b\r\u0007"}),
)
TEXTS = (
    "\u001b[31mred",
    "a\rb",
    "\u0007",
    "\u202eturned",
    "\u009b2J",
    "'\"\\%s:x{}$1",
    "[bold]x[/]",
    "*",
    "Ünïcödé\u200b",
)
LONG = Long("q" * 200_000)
ARRAYS: tuple[Any, ...] = (None, [], [None], ["one"], ["a", None], [["a", "b"], ["c", None]], ["\u001b[2J", "\u202e"])

moments = st.sampled_from(MOMENTS)
jsons = st.sampled_from(JSON)
texts = st.sampled_from(TEXTS)
arrays = st.sampled_from(ARRAYS)
maybe_moments = st.none() | moments

jobs = st.fixed_dictionaries(
    {
        "state": st.sampled_from(
            ["available", "scheduled", "executing", "retryable", "completed", "cancelled", "discarded", "suspended"]
        ),
        "queue": st.just("default") | texts,
        "worker": st.just("known") | texts,
        "args": jsons,
        "meta": st.none() | jsons,
        "errors": st.lists(st.none() | jsons, max_size=3),
        "tags": arrays,
        "attempted_by": arrays,
        "attempt": st.sampled_from([0, 3]),
        "max_attempts": st.sampled_from([3, 20, 2**31 - 1]),
        "priority": st.sampled_from([0, 9]),
        "inserted_at": moments,
        "scheduled_at": moments,
        "attempted_at": maybe_moments,
        "completed_at": maybe_moments,
        "cancelled_at": maybe_moments,
        "discarded_at": maybe_moments,
    }
)
producers = st.fixed_dictionaries(
    {
        "uuid": st.uuids().map(str),
        "name": st.just("Oban") | texts,
        "node": texts,
        "queue": texts | st.just(LONG),
        "meta": jsons,
        "started_at": moments,
        "updated_at": moments,
    }
)
leaders = st.fixed_dictionaries(
    {
        "name": st.just("oban_sa.Oban") | texts,
        "node": texts,
        "elected_at": moments,
        "expires_at": st.sampled_from(["infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59"]),
    }
)
peers = st.fixed_dictionaries({"name": texts, "node": texts, "started_at": moments, "expires_at": moments})
queues = st.fixed_dictionaries({"name": st.just("default") | texts, "meta": jsons, "updated_at": moments})
crons = st.fixed_dictionaries(
    {
        "name": st.just("tick") | texts | st.just(LONG),
        "expression": st.sampled_from(["* * * * *", "0 0 31 2 *"]) | texts,
        "worker": st.just("known") | texts,
        "timezone": st.sampled_from(["Etc/UTC", "Pacific/Kiritimati", "America/Adak", "/etc/passwd", ""]) | texts,
        "opts": jsons,
        "last_at": maybe_moments,
        "inserted_at": moments,
        "updated_at": moments,
    }
)

IDS = (-(2**63), -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 2**63 - 1)
UUIDS = tuple(f"00000000-0000-4000-8000-00000000000{number}" for number in range(4))
COUNTS = (-(2**31), -1, 0, 1, 2**31 - 1)
ids, uuids, counts = st.sampled_from(IDS), st.sampled_from(UUIDS), st.sampled_from(COUNTS)
lanes = st.sampled_from([-(2**15), -1, 0, 1, 7, 8, 2**15 - 1])
uniques = st.fixed_dictionaries({"key": uuids, "job_id": ids, "version": ids})
rates = st.fixed_dictionaries(
    {
        "name": st.just("queue:limited") | texts | st.just(Long("n" * 1_000)),
        "key": st.sampled_from(["a", ""]),
        "width": st.sampled_from(["NaN", "Infinity", "-1", "0", "1.5", "1e308"]),
        "newest": ids,
        "counts": st.sampled_from([[], [None], [0] * 61, [-1, 2**31 - 1], [[1, 2], [3, None]]]),
        "full_at": maybe_moments,
    }
)
leases = st.fixed_dictionaries(
    {"name": texts, "key": st.just("") | texts, "holder": uuids, "taken_at": moments, "expires_at": moments}
)
flows = st.fixed_dictionaries(
    {
        "id": uuids,
        "root_id": uuids,
        "path": st.lists(st.none() | uuids, max_size=3),
        "kind": st.sampled_from(["workflow", "group", "graft", ""]) | texts,
        "lane": lanes,
        "name": st.none() | texts,
        "unique_name": st.none() | texts,
        **dict.fromkeys(("total", "unfinished", "completed", "cancelled", "discarded"), counts),
        "context": st.none() | jsons,
        "callbacks": st.none() | jsons,
        "fired": arrays.filter(lambda value: value is not None),
        "meta": jsons,
        "inserted_at": moments,
        "started_at": maybe_moments,
        "completed_at": maybe_moments,
    }
)
members = st.fixed_dictionaries(
    {
        "job_id": ids,
        "flow_id": uuids,
        "name": texts | st.just(Long("n" * 1_000)),
        "waiting": st.none() | counts,
        "doomed": st.none() | texts,
        "settled": st.none() | st.sampled_from(["completed", "c", "", "lost"]) | texts,
        "retried": counts,
    }
)
forgives = st.sampled_from([-(2**15), 0, 1, 7, 8, 2**15 - 1])
edges = st.fixed_dictionaries({"parent_id": ids, "child_id": ids, "forgives": forgives})
gates = st.fixed_dictionaries({"flow_id": uuids, "child_id": ids, "forgives": forgives})
endings = st.fixed_dictionaries(
    {"lane": lanes, "job_id": st.none() | ids, "flow_id": st.none() | uuids, "recount": st.booleans()}
)
widths = st.sampled_from(["NaN", "Infinity", "-Infinity", "-1", "0", "1.5", "1e308"])
sums = jsons | st.sampled_from(
    ['{"completed": "x", "discarded": -5}', '{"x": 1e30, "12": 1.5}', '{"-9": 3, "99999": 1}']
)
metrics = st.fixed_dictionaries(
    {
        "step": st.sampled_from([60, 3600]) | counts,
        "queue": st.just("default") | texts,
        "worker": st.just("known") | texts,
        "at": moments,
        "node": texts,
        **dict.fromkeys(("outcomes", "failures", "run", "wait"), sums),
        "backlog": st.none() | counts,
        "oldest": st.none() | widths,
        "flush": st.none() | uuids,
    }
)
# Not of "tick": a row of that name is a pause, whoever has written it.
cron_pauses = st.fixed_dictionaries({"name": texts | st.just(Long("n" * 1_000)), "paused_at": moments})

TABLES = {
    "oban_jobs": jobs,
    "oban_producers": producers,
    "oban_leaders": leaders,
    "oban_peers": peers,
    "oban_sa_queues": queues,
    "oban_sa_crons": crons,
    "oban_sa_uniques": uniques,
    "oban_sa_rates": rates,
    "oban_sa_leases": leases,
    "oban_sa_flows": flows,
    "oban_sa_members": members,
    "oban_sa_edges": edges,
    "oban_sa_gates": gates,
    "oban_sa_endings": endings,
    "oban_sa_metrics": metrics,
    "oban_sa_cron_pauses": cron_pauses,
}
_TYPES = {
    **dict.fromkeys(("meta", "opts", "args", "context", "callbacks", "outcomes", "failures", "run", "wait"), "jsonb"),
    **dict.fromkeys(("uuid", "root_id", "flow_id", "holder", "flush"), "uuid"),
    **dict.fromkeys(("tags", "attempted_by", "fired"), "text[]"),
    "state": "oban_job_state",
    "path": "uuid[]",
    "counts": "integer[]",
    **dict.fromkeys(("width", "oldest"), "double precision"),
    "at": "timestamp",
}
_KEYS = {"oban_sa_flows": "id", "oban_sa_uniques": "key"}
"""Columns that are a uuid here, and a text or a number elsewhere."""


def insert(table: str, row: dict[str, Any]) -> tuple[str, list[Any]]:
    """An INSERT of a row, with the values for psycopg's placeholders; a row whose key is taken is left out."""
    places: list[str] = []
    values: list[Any] = []
    for name, value in row.items():
        kind = "uuid" if _KEYS.get(table) == name else _TYPES.get(name)
        kind = kind or ("timestamp" if name.endswith("_at") else None)
        if name == "errors":
            places.append(f"ARRAY[{', '.join(['%s::jsonb'] * len(value))}]::jsonb[]")
            values += value
        else:
            places.append("%s" if kind is None else f"%s::{kind}")
            values.append(value)
    return (
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(places)}) ON CONFLICT DO NOTHING",
        [str(value) if isinstance(value, Long) else value for value in values],
    )
