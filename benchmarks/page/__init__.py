"""Make docs/performance.md and its plots of the results.

    python -m benchmarks.page [RESULTS [FOLDER]]

Without RESULTS they are those of benchmarks/results/latest.json; in FOLDER it makes docs/, instead of here. What people
write goes into docs/performance/: `introduction.md`, `workflows.md`, `steps.md` and `limits.md` are put into the page
as they are. Everything else in the page is overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.environments import ROOT
from benchmarks.page import plots, tables
from benchmarks.page.plots import Bar, Group
from benchmarks.page.tables import Figures, Found
from benchmarks.scenario import Scenario
from benchmarks.scenarios import BY_NAME

PAGE = Path("docs") / "performance.md"
WRITTEN = Path("docs") / "performance"
PLOTS = Path("docs") / "plots"
MADE = "<!-- Made by `python -m benchmarks.page`; what people wrote comes from docs/performance/. -->\n"


@dataclass(frozen=True)
class Section:
    """Scenarios that are shown together: a plot, their main figures, and a text with tables about the rest."""

    title: str
    plot: str
    names: Sequence[str]
    bars: Callable[[Scenario, Figures], list[Bar]]
    more: Callable[[Found, Mapping[str, Figures]], str]
    main: bool = True
    """Whether the main figures have a table of their own, with ratios to the floor and to the best peer."""


SECTIONS = (
    Section("Draining", "drain", ("drain_10", "drain_50", "drain_200"), tables.rate_bars, tables.spent),
    Section(
        "Other drains",
        "drains",
        (
            "drain_command",
            "processes_2",
            "processes_4",
            "finished_1m",
            "finished_10m",
            "queues_8",
            "priorities",
            "args_2kb",
            "held_horizon",
            "session_jobs",
        ),
        tables.rate_bars,
        tables.beside_plain,
    ),
    Section(
        "Limits",
        "limits",
        ("limit_global", "limit_keys", "limit_keys_2ms", "limit_rate", "unique_drain"),
        tables.rate_bars,
        tables.beside_unlimited,
    ),
    Section(
        "Workflows",
        "workflows",
        ("flow_pairs", "flow_fan_in", "flow_fan_out", "flow_graft", "flow_enqueue", "steps"),
        tables.rate_bars,
        tables.workflows,
    ),
    Section(
        "Latency in workflows",
        "workflow_latency",
        ("flow_chain", "signals"),
        tables.latency_bars,
        tables.latencies,
    ),
    Section(
        "Latency",
        "latency",
        (
            "latency_idle",
            "latency_inside",
            "latency_loaded",
            "beside_threads",
            "beside_sessions",
            "schedule",
            "startup",
        ),
        tables.latency_bars,
        tables.latencies,
    ),
    Section(
        "Enqueueing",
        "enqueue",
        (
            "enqueue_one",
            "enqueue_direct",
            "enqueue_unique",
            "flush_10",
            "flush_100",
            "flush_1000",
            "flush_10000",
            "enqueue_session",
            "enqueue_copy",
        ),
        tables.rate_bars,
        tables.enqueued,
    ),
    Section(
        "In the application",
        "application",
        ("session_nothing", "session_one", "session_ref", "writers_16", "writers_16_bare"),
        tables.rate_bars,
        tables.application,
    ),
    Section(
        "Nodes with nothing to do",
        "idle",
        ("idle", "idle_queues", "idle_nodes"),
        tables.rate_bars,
        tables.at_rest,
        main=False,
    ),
    Section("Lone jobs and many nodes", "crowd", ("crowd_1", "crowd_20"), tables.latency_bars, tables.crowd),
)


def make(document: dict[str, Any], root: Path = ROOT) -> str:
    """Write the page and its plots below `root`, and return the page."""
    known = {scenario.name: figures for scenario, figures in results.known(document)}
    (root / PLOTS).mkdir(parents=True, exist_ok=True)
    sections = [
        MADE,
        _written(root, "introduction.md"),
        _notice(document),
        *(_section(root, known, section) for section in SECTIONS),
        _written(root, "workflows.md"),
        _written(root, "steps.md"),
        _written(root, "limits.md"),
        _conditions(document),
        _again(),
    ]
    page = "\n".join(section.strip() + "\n" for section in sections if section.strip())
    (root / PAGE).write_text(page, encoding="utf-8")
    return page


# Sections


def _section(root: Path, known: Mapping[str, Figures], section: Section) -> str:
    """A plot, the table of main figures, and what else is known of these scenarios."""
    found = [(BY_NAME[name], known[name]) for name in section.names if name in known]
    if not found:
        return ""
    groups = [
        Group(f"{scenario.title}, {scenario.unit}", section.bars(scenario, figures)) for scenario, figures in found
    ]
    drawn = plots.chart(section.title, groups, own_scale=True)
    (root / PLOTS / f"{section.plot}.svg").write_text(drawn, encoding="utf-8")
    parts = [
        f"## {section.title}",
        f"![{section.title}](plots/{section.plot}.svg)",
        tables.main_table(found) if section.main else "",
        section.more(found, known),
        _refusals(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _refusals(found: Found) -> str:
    lines = [
        f"- {scenario.title}, {name}: {reason}"
        for scenario, figures in found
        for name, figure in figures.items()
        for reason in dict.fromkeys(figure.get("refused", []))
    ]
    return "Refused, and counted nowhere:\n\n" + "\n".join(lines) if lines else ""


def _notice(document: dict[str, Any]) -> str:
    if document["quick"]:
        return "**These figures are of a quick run with a twentieth of the work. They say that it runs, not how fast.**"
    return ""


def _conditions(document: dict[str, Any]) -> str:
    machine, server = document["machine"], document["server"]
    on = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}"
    settings = ", ".join(f"`{name} = {value}`" for name, value in server.items() if name != "server_version")
    taken = f"{document['rounds']} rounds, from {document['begun_at']} to {document['ended_at']}"
    lines = [
        "## Conditions",
        "",
        f"- {on}; load before: {machine['load'] or 'unknown'}",
        f"- PostgreSQL {server['server_version']}, {settings}",
        f"- {taken}; everybody takes a turn in each round",
        "- each turn has a new process and a new database, and begins after a VACUUM and a CHECKPOINT",
    ]
    for name, versions in document["contenders"].items():
        lines.append(f"- {name}: " + ", ".join(f"{package} {version}" for package, version in versions.items()))
    lines += [f"- {name} is left out: {reason}" for name, reason in document["left_out"].items()]
    for name, moment in document.get("repeated", {}).items():
        lines.append(f"- `{name}` was measured again, at {moment}")
    worst = [
        (spread, scenario.title, name)
        for scenario, figures in results.known(document)
        for name, figure in figures.items()
        if (spread := results.spread(figure, "rate")) is not None and spread > 0.25
    ]
    if worst:
        shown = "; ".join(f"{title}, {name}: {spread:.0%}" for spread, title, name in sorted(worst, reverse=True)[:6])
        lines.append(f"- where the rounds differed most, as a part of the median: {shown}")
    return "\n".join(lines)


def _again() -> str:
    return """## Measure it yourself

```console
$ make bench                                # all of this, in three quarters of an hour
$ .venv/bin/python -m benchmarks --list     # what there is
$ .venv/bin/python -m benchmarks --only 'drain_50,latency*' --without-peers --results /tmp/some.json
$ .venv/bin/python -m oban_sa bench         # on a database of yours, in a minute
```

The results are in [benchmarks/results/latest.json](../benchmarks/results/latest.json): every
round, not only medians."""


def _written(root: Path, name: str) -> str:
    path = root / WRITTEN / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: Sequence[str]) -> None:
    """Make the page of the results that are named, or of the latest."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("results", nargs="?", type=Path, default=ROOT / results.LATEST)
    options.add_argument("folder", nargs="?", type=Path, default=ROOT)
    given = options.parse_args(arguments)
    if not given.results.exists():
        options.error(f"there is no {given.results}; python -m benchmarks --results {given.results} makes it")
    make(results.load(given.results), given.folder)
    print(f"{given.folder / PAGE} is written")
