"""Make `docs/prometheus/dashboard.json`, for Grafana, of the metrics that a runner has.

Run `python -m tests.public.grafana` after a change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

DASHBOARD: Final = Path(__file__).parents[2] / "docs" / "prometheus" / "dashboard.json"

_OF_QUEUE: Final = 'queue=~"$queue"'
_FAILED: Final = f'{_OF_QUEUE},state=~"retryable|discarded"'
_RATE: Final = "$__rate_interval"


def percentile(of: float, family: str) -> str:
    return f"histogram_quantile({of}, sum by (le, queue) (rate({family}_bucket{{{_OF_QUEUE}}}[{_RATE}])))"


PANELS: Final[list[tuple[str, str, list[tuple[str, str]]]]] = [
    (
        "How long the first job has waited",
        "s",
        [(f"max by (queue) (oban_queue_oldest_seconds{{{_OF_QUEUE}}})", "{{queue}}")],
    ),
    (
        "Attempts that ended",
        "ops",
        [(f"sum by (state) (rate(oban_job_runs_total{{{_OF_QUEUE}}}[{_RATE}]))", "{{state}}")],
    ),
    (
        "Jobs enqueued",
        "ops",
        [(f"sum by (queue) (rate(oban_jobs_enqueued_total{{{_OF_QUEUE}}}[{_RATE}]))", "{{queue}}")],
    ),
    (
        "Attempts that failed, by worker",
        "ops",
        [
            (
                f"topk(10, sum by (worker) (rate(oban_job_runs_total{{{_FAILED}}}[{_RATE}])))",
                "{{worker}}",
            )
        ],
    ),
    (
        "Seconds of an attempt",
        "s",
        [
            (percentile(0.5, "oban_job_run_seconds"), "{{queue}} p50"),
            (percentile(0.99, "oban_job_run_seconds"), "{{queue}} p99"),
        ],
    ),
    (
        "Seconds from due to fetched",
        "s",
        [
            (percentile(0.5, "oban_job_wait_seconds"), "{{queue}} p50"),
            (percentile(0.99, "oban_job_wait_seconds"), "{{queue}} p99"),
        ],
    ),
    (
        "Running, of all that may",
        "percentunit",
        [
            (
                f"sum by (queue) (oban_jobs_running{{{_OF_QUEUE}}}) / sum by (queue) (oban_queue_limit{{{_OF_QUEUE}}})",
                "{{queue}}",
            )
        ],
    ),
    (
        "Jobs in the table",
        "short",
        [(f"max by (queue, state) (oban_jobs{{{_OF_QUEUE}}})", "{{queue}} {{state}}")],
    ),
    (
        "Seconds of a statement",
        "s",
        [
            (percentile(0.99, "oban_fetch_seconds"), "{{queue}} fetch p99"),
            (percentile(0.99, "oban_ack_seconds"), "{{queue}} ack p99"),
        ],
    ),
    (
        "Nodes",
        "short",
        [
            (f"max by (queue) (oban_nodes{{{_OF_QUEUE}}})", "{{queue}}"),
            ("sum(oban_leader)", "leaders"),
            ("min(oban_notifier_up)", "notifications arrive everywhere"),
        ],
    ),
    (
        "Loops that stand still",
        "s",
        [("max by (instance) (oban_loop_lag_seconds)", "{{instance}}")],
    ),
    (
        "Upkeep",
        "ops",
        [
            (f"sum(rate(oban_rescued_total[{_RATE}]))", "rescued"),
            (f"sum(rate(oban_pruned_total[{_RATE}]))", "pruned"),
            (f"sum(rate(oban_cron_jobs_total[{_RATE}]))", "made by the crontab"),
            (f"sum(rate(oban_acks_stale_total{{{_OF_QUEUE}}}[{_RATE}]))", "outcomes refused"),
        ],
    ),
]
"""Title, unit, and the expressions with their legends."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "title": "oban_sa",
        "uid": "oban-sa",
        "tags": ["oban_sa"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "queue",
                    "label": "Queue",
                    "type": "query",
                    "datasource": source,
                    "query": {"query": "label_values(oban_queue_limit, queue)", "refId": "queues"},
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [
            {
                "id": number + 1,
                "title": title,
                "type": "timeseries",
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": number % 2 * 12, "y": number // 2 * 8},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": [
                    {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
                    for place, (expression, legend) in enumerate(targets)
                ],
            }
            for number, (title, unit, targets) in enumerate(PANELS)
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
