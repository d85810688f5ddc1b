"""Make docs/performance.md and its plots of the results.

    python -m benchmarks.page [benchmarks/results/latest.json]

What people write goes into docs/performance/: `introduction.md`, `steps.md` and `limits.md` are put into the page as
they are. Everything else in the page is overwritten.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, results
from benchmarks.environments import ROOT
from benchmarks.plots import Bar, Group
from benchmarks.scenarios import BY_NAME, Scenario

PAGE = Path("docs") / "performance.md"
WRITTEN = Path("docs") / "performance"
PLOTS = Path("docs") / "plots"
MADE = "<!-- Made by `python -m benchmarks.page`; what people wrote comes from docs/performance/. -->\n"

DRAINS = ("drain_10", "drain_50", "drain_200")
MORE_DRAINS = (
    "processes_2",
    "processes_4",
    "finished_1m",
    "finished_10m",
    "queues_8",
    "priorities",
    "args_2kb",
    "held_horizon",
    "session_jobs",
)
LATENCIES = (
    "latency_idle",
    "latency_inside",
    "latency_loaded",
    "beside_threads",
    "beside_sessions",
    "schedule",
    "startup",
)
ENQUEUES = ("enqueue_one", "flush_10", "flush_100", "flush_1000", "flush_10000", "enqueue_copy")
APPLICATION = ("session_nothing", "session_one", "writers_16", "writers_16_bare")


def make(document: dict[str, Any], root: Path = ROOT) -> str:
    """Write the page and its plots below `root`, and return the page."""
    known = {scenario.name: figures for scenario, figures in results.known(document)}
    (root / PLOTS).mkdir(parents=True, exist_ok=True)
    sections = [
        MADE,
        _written(root, "introduction.md"),
        _notice(document),
        _section(root, known, "Draining", "drain", DRAINS, _rate_bars, _spent),
        _section(root, known, "Other drains", "drains", MORE_DRAINS, _rate_bars, _beside_plain),
        _section(root, known, "Latency", "latency", LATENCIES, _latency_bars, _latencies),
        _section(root, known, "Enqueueing", "enqueue", ENQUEUES, _rate_bars, _enqueued),
        _section(root, known, "In the application", "application", APPLICATION, _rate_bars, _application),
        _idle(known),
        _written(root, "steps.md"),
        _written(root, "limits.md"),
        _conditions(document),
        _again(),
    ]
    page = "\n".join(section.strip() + "\n" for section in sections if section.strip())
    (root / PAGE).write_text(page, encoding="utf-8")
    return page


# Sections


def _section(
    root: Path,
    known: dict[str, dict[str, Any]],
    title: str,
    plot: str,
    names: Sequence[str],
    bars: Callable[[Scenario, dict[str, Any]], list[Bar]],
    more: Callable[[list[tuple[Scenario, dict[str, Any]]], dict[str, dict[str, Any]]], str],
) -> str:
    """A plot, the table of main figures, and whatever else is known of these scenarios."""
    found = [(BY_NAME[name], known[name]) for name in names if name in known and name in BY_NAME]
    if not found:
        return ""
    groups = [Group(f"{scenario.title}, {scenario.unit}", bars(scenario, figures)) for scenario, figures in found]
    drawn = plots.chart(title, groups, own_scale=True)
    (root / PLOTS / f"{plot}.svg").write_text(drawn, encoding="utf-8")
    parts = [f"## {title}", f"![{title}](plots/{plot}.svg)", _main_table(found), more(found, known), _refusals(found)]
    return "\n\n".join(part for part in parts if part)


def _main_table(found: list[tuple[Scenario, dict[str, Any]]]) -> str:
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            value = results.main_figure(scenario, figure)
            if value is None:
                continue
            floor = None if name == "floor" else results.to_floor(scenario, figures, name)
            peer = results.to_best_peer(scenario, figures, name)
            rows.append(
                [
                    scenario.title,
                    _name(scenario, name),
                    f"{_number(value)} {scenario.unit}",
                    _times(floor),
                    "" if peer is None else f"{peer[1]:.2f} ({peer[0]})",
                ]
            )
    return _table(["", "who", "median", "to the floor", "to the best peer"], rows)


def _spent(found: list[tuple[Scenario, dict[str, Any]]], known: dict[str, dict[str, Any]]) -> str:
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            cells = [results.median(figure, each) for each in ("python_us", "postgres_us", "wal_bytes", "commits")]
            memory = results.median(figure, "memory_mb")
            if cells[0] is None:
                continue
            shown = [_number(cell) if cell is not None else "" for cell in cells[:3]]
            commits = "" if cells[3] is None else f"{cells[3]:.3f}"
            rows.append([scenario.title, _name(scenario, name), *shown, commits, _number(memory or 0)])
    head = ["", "who", "Python µs/job", "PostgreSQL µs/job", "WAL bytes/job", "commits/job", "memory MB"]
    return "What each job costs: CPU of the process, CPU of the server, and what the server writes.\n\n" + _table(
        head, rows
    )


def _beside_plain(found: list[tuple[Scenario, dict[str, Any]]], known: dict[str, dict[str, Any]]) -> str:
    plain = known.get("drain_50", {})
    rows = []
    for scenario, figures in found:
        if scenario.kind != "drain" or scenario.name == "queues_8":
            continue
        cells = [scenario.title]
        for name in results.OWN:
            mine = results.main_figure(scenario, figures.get(name, {}))
            base = results.main_figure(BY_NAME["drain_50"], plain.get(name, {}))
            cells.append(f"{mine / base:.2f}" if mine is not None and base else "")
        rows.append(cells)
    text = "The same drains as ratios to the plain one at concurrency 50:"
    return f"{text}\n\n{_table(['', 'floor', 'oban_sa'], rows)}" if rows else ""


def _latencies(found: list[tuple[Scenario, dict[str, Any]]], known: dict[str, dict[str, Any]]) -> str:
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            if latency := figure.get("latency"):
                cells = [f"{latency[part]:,.2f}" for part in ("p50", "p99", "p999", "max")]
                count = figure["samples"]
                if count < 1000:
                    cells[2] = ""
                rows.append([scenario.title, _name(scenario, name), f"{count:,}", *cells])
    return "Milliseconds; p99.9 only where there are a thousand samples or more.\n\n" + _table(
        ["", "who", "samples", "p50", "p99", "p99.9", "max"], rows
    )


def _enqueued(found: list[tuple[Scenario, dict[str, Any]]], known: dict[str, dict[str, Any]]) -> str:
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            python, wal = results.median(figure, "python_us"), results.median(figure, "wal_bytes")
            if python is not None:
                rows.append([scenario.title, _name(scenario, name), _number(python), _number(wal or 0)])
    return _table(["", "who", "Python µs/job", "WAL bytes/job"], rows)


def _application(found: list[tuple[Scenario, dict[str, Any]]], known: dict[str, dict[str, Any]]) -> str:
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            python, statements = results.median(figure, "python_us"), results.median(figure, "statements")
            shown = "" if statements is None else f"{statements:g}"
            rows.append([scenario.title, _name(scenario, name), _number(python or 0), shown])
    return _table(["", "who", "Python µs/transaction", "statements/transaction"], rows)


def _idle(known: dict[str, dict[str, Any]]) -> str:
    figure = known.get("idle", {}).get("oban_sa")
    if figure is None:
        return ""
    memory = results.median(figure, "memory_mb") or 0
    python = (results.median(figure, "python_us_per_s") or 0) / 1000
    postgres = results.median(figure, "postgres_us_per_s")
    commits = results.median(figure, "commits_per_s") or 0
    server = "" if postgres is None else f", {postgres / 1000:.1f} ms of CPU in the server"
    return (
        f"## A runner with nothing to do\n\nIt holds {memory:.0f} MB, and each second costs {python:.1f} ms of Python"
        f"{server} and {commits:.1f} commits."
    )


def _refusals(found: list[tuple[Scenario, dict[str, Any]]]) -> str:
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
$ make bench                                # all of this, in about half an hour
$ .venv/bin/python -m benchmarks --list     # what there is
$ .venv/bin/python -m benchmarks --only drain_50,latency_idle --without-peers
$ .venv/bin/python -m oban_sa bench         # on a database of yours, in a minute
```

The results are in [benchmarks/results/latest.json](../benchmarks/results/latest.json): every
round, not only medians."""


# Pieces


def _rate_bars(scenario: Scenario, figures: dict[str, Any]) -> list[Bar]:
    return [
        Bar(name, value, _number(value), _name(scenario, name))
        for name, figure in figures.items()
        if (value := results.main_figure(scenario, figure)) is not None
    ]


def _latency_bars(scenario: Scenario, figures: dict[str, Any]) -> list[Bar]:
    return [
        Bar(name, found["p50"], f"{_number(found['p50'])} (p99 {_number(found['p99'])})", _name(scenario, name))
        for name, figure in figures.items()
        if (found := figure.get("latency"))
    ]


def _name(scenario: Scenario, contender: str) -> str:
    return scenario.called.get(contender, contender)


def _written(root: Path, name: str) -> str:
    path = root / WRITTEN / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown: list[Sequence[str]] = []
    above = ""
    for first, *others in rows:
        shown.append(["" if first == above else first, *others])
        above = first
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *shown]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main(arguments: Sequence[str]) -> None:
    """Make the page of the results that are named, or of the latest."""
    make(results.load(Path(arguments[0]) if arguments else ROOT / results.LATEST))
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main(sys.argv[1:])
