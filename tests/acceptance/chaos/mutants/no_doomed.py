"""That a dependency failed is forgotten where the job's row is locked just then, and so can't be cancelled."""

from __future__ import annotations

from oban_sa.sql import settle

PROMISES = ("P2", "order")
KIND = "flows"

_WRITTEN = {
    "doomed = coalesce(\n        m.doomed, CASE WHEN m.job_id IN (SELECT job_id FROM stray) "
    "THEN 'the workflow was cancelled' END, t.failure\n    )": "doomed = NULL",
    "m.waiting, m.doomed\n),\nready": "m.waiting, t.failure AS doomed\n),\nready",
    "doomed = CASE WHEN n.fresh THEN n.failure ELSE coalesce(m.doomed, n.failure) END": "doomed = NULL",
    "m.waiting, m.doomed\n),\nchildren": "m.waiting, n.failure AS doomed\n),\nchildren",
}

for found, instead in _WRITTEN.items():
    assert settle._SETTLE.count(found) == 1, found
    settle._SETTLE = settle._SETTLE.replace(found, instead)  # type: ignore[misc]
