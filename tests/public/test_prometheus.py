"""The page on Prometheus, its rules and its dashboard name metrics that there are, with labels that they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from oban_sa.prometheus.families import FAMILIES, Family
from tests.public.grafana import DASHBOARD, PANELS, text

DOCS = Path(__file__).parents[2] / "docs"
_USED = re.compile(r"\b(?P<name>oban_[a-z_]+)(?:\{(?P<labels>[^}]*)\})?")
_SUFFIX = re.compile(r"_(bucket|count|sum)$")
EVERYWHERE = {"instance", "job", "runner"}


def of(name: str) -> Family:
    family = FAMILIES.get(name) or FAMILIES.get(_SUFFIX.sub("", name))
    assert family is not None, f"there is no metric {name}"
    return family


def expressions() -> Iterator[str]:
    for _, _, targets in PANELS:
        yield from (expression for expression, _ in targets)
    rules = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for manifest in yaml.safe_load_all((DOCS / "prometheus" / "keda.yml").read_text(encoding="utf-8")):
        for trigger in manifest["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield trigger["metadata"]["query"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_expression_names_metrics_and_labels_that_there_are(expression: str) -> None:
    used = list(_USED.finditer(expression))
    assert used
    known = set(EVERYWHERE)
    for each in used:
        family = of(each["name"])
        known |= {*family.labels, "le"}
        named = re.findall(r"(\w+)(?:=~|!=|=)", each["labels"] or "")
        assert set(named) <= set(family.labels), f"{family.name} has the labels {family.labels}"
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known


def test_every_metric_is_in_the_table_of_the_page() -> None:
    page = (DOCS / "prometheus.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(oban_[a-z_]+)` \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == list(FAMILIES)
    for name, rest in rows.items():
        family = FAMILIES[name]
        labels = ", ".join(family.labels) or "–"
        assert rest == f"{family.kind} | {labels} | {family.text}"


def test_the_dashboard_is_the_one_that_is_made_of_the_metrics() -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == text(), "run python -m tests.public.grafana"


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {of(each["name"]).name for _, _, targets in PANELS for one, _ in targets for each in _USED.finditer(one)}
    assert set(FAMILIES) - shown == {"oban_queue_paused", "oban_jobs_capped"}


async def test_the_query_that_scales_from_nothing_runs(database_url: str) -> None:
    import asyncpg

    from tests.support import plain_url

    [manifest, _] = yaml.safe_load_all((DOCS / "prometheus" / "keda.yml").read_text(encoding="utf-8"))
    connection = await asyncpg.connect(plain_url(database_url))
    try:
        await connection.execute(
            "INSERT INTO oban_jobs (worker, queue, state) VALUES ('a', 'mailers', 'available'), "
            "('a', 'mailers', 'executing'), ('a', 'mailers', 'completed'), ('a', 'default', 'available')"
        )
        [trigger] = manifest["spec"]["triggers"]
        assert await connection.fetchval(trigger["metadata"]["query"]) == 2
    finally:
        await connection.close()
