"""The tracing example, run as its page says: one trace from whoever enqueues to the last job, of public parts alone."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import ROOT, plain_url, run_python

SPAN = re.compile(r"span (\w+) trace=(\w{32}) span=(\w{16}) parent=(\w{16}|-) outcome=(\w+)")
RUNNER = (
    *("-m", "oban_sa.runner", "--import", "examples.tracing.jobs"),
    *("--middleware", "examples.tracing.spans:trace", "--until-idle"),
)


@pytest.mark.parametrize(("number", "outcome"), [(7, "ok"), (-1, "ValueError")])
def test_a_trace_goes_from_the_enqueuing_process_through_the_jobs(database_url: str, number: int, outcome: str) -> None:
    env = {"OBAN_DATABASE_URL": plain_url(database_url)}
    enqueued = run_python("-m", "examples.tracing", str(number), env=env)
    assert enqueued.returncode == 0, enqueued.stderr
    trace = enqueued.stdout.strip()

    worked = run_python(*RUNNER, env=env)
    assert worked.returncode == 0, worked.stderr
    spans = {name: (found, span, parent, how) for name, found, span, parent, how in SPAN.findall(worked.stderr)}
    assert spans.keys() == {"place_order", "reserve", "send_receipt", "render"}, worked.stderr
    assert {found for found, *_ in spans.values()} == {trace}
    assert spans["reserve"][2] == spans["place_order"][1]
    # The receipt was enqueued inside of that span, in another process than the one that began the trace.
    assert spans["send_receipt"][2] == spans["reserve"][1]
    assert spans["render"][2] == spans["send_receipt"][1]
    assert [spans[name][3] for name in ("place_order", "send_receipt", "render")] == ["ok", outcome, outcome]


def test_the_integration_touches_nothing_private() -> None:
    for path in (ROOT / "examples" / "tracing").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                assert node.attr.startswith("__"), f"{path.name} uses {node.attr}"
            if isinstance(node, ast.ImportFrom):
                assert not any(name.name.startswith("_") for name in node.names), path.name
