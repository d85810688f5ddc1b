"""The tables of the page, and the bars of its plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks import results
from benchmarks.page.plots import Bar
from benchmarks.scenario import Scenario
from benchmarks.scenarios import BY_NAME

Figures: TypeAlias = Mapping[str, Any]
"""What is known of one scenario, by contender."""
Found: TypeAlias = Sequence[tuple[Scenario, Figures]]


@dataclass(frozen=True)
class Column:
    """A head, and the figure below it; `places` after the point, or as many as fit its size."""

    head: str
    value: Callable[[dict[str, Any]], float | None]
    places: int | None = None

    def cell(self, figure: dict[str, Any]) -> str:
        value = self.value(figure)
        if value is None:
            return ""
        return number(value) if self.places is None else f"{value:,.{self.places}f}"


def median(name: str) -> Callable[[dict[str, Any]], float | None]:
    """Take the median over the rounds of what has this name."""
    return lambda figure: results.median(figure, name)


def latency(part: str) -> Callable[[dict[str, Any]], float | None]:
    """Take a percentile, of all rounds together."""
    return lambda figure: figure.get("latency", {}).get(part)


# Bars


def rate_bars(scenario: Scenario, figures: Figures) -> list[Bar]:
    """A bar for the main figure of each contender."""
    return [
        Bar(name, value, number(value), name_of(scenario, name))
        for name, figure in figures.items()
        if (value := results.main_figure(scenario, figure)) is not None
    ]


def latency_bars(scenario: Scenario, figures: Figures) -> list[Bar]:
    """A bar for the median latency of each contender, with its 99th percentile beside it."""
    return [
        Bar(name, found["p50"], f"{number(found['p50'])} (p99 {number(found['p99'])})", name_of(scenario, name))
        for name, figure in figures.items()
        if (found := figure.get("latency"))
    ]


# Tables


def main_table(found: Found) -> str:
    """The main figures, and their ratios to the floor and to the best peer."""
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
                    name_of(scenario, name),
                    f"{number(value)} {scenario.unit}",
                    _times(floor),
                    "" if peer is None else f"{peer[1]:.2f} ({peer[0]})",
                ]
            )
    return _table(["", "who", "median", "to the floor", "to the best peer"], rows)


def spent(found: Found, known: Mapping[str, Figures]) -> str:
    """What each job of a drain costs."""
    columns = [
        Column("Python µs/job", median("python_us")),
        Column("PostgreSQL µs/job", median("postgres_us")),
        Column("WAL bytes/job", median("wal_bytes")),
        Column("commits/job", median("commits"), 3),
        Column("memory MB", median("memory_mb")),
    ]
    text = "What each job costs: CPU of the process, CPU of the server, and what the server writes."
    return f"{text}\n\n{_by_columns(found, columns)}"


def beside_plain(found: Found, known: Mapping[str, Figures]) -> str:
    """Drains as ratios to the plain one."""
    plain = known.get("drain_50", {})
    rows = []
    for scenario, figures in found:
        if scenario.kind != "drain" or scenario.name in ("queues_8", "drain_command"):
            continue
        cells = [scenario.title]
        for name in results.OWN:
            mine = results.main_figure(scenario, figures.get(name, {}))
            base = results.main_figure(BY_NAME["drain_50"], plain.get(name, {}))
            cells.append(f"{mine / base:.2f}" if mine is not None and base else "")
        rows.append(cells)
    text = "The same drains as ratios to the plain one at concurrency 50:"
    return f"{text}\n\n{_table(['', 'floor', 'oban_sa'], rows)}" if rows else ""


def beside_unlimited(found: Found, known: Mapping[str, Figures]) -> str:
    """Drains within limits as ratios to the same without, in the same turns."""
    rows = []
    for scenario, figures in found:
        cost = [results.median(figures.get(name, {}), "postgres_us") for name in results.OWN]
        rows.append(
            [
                scenario.title,
                _times(results.to_floor(scenario, figures, "oban_sa")),
                *("" if each is None else number(each) for each in cost),
            ]
        )
    text = (
        "Each is a drain of a queue with limits, or of unique jobs, by oban_sa, in turns with the same of a plain "
        "queue. A job that does nothing is the worst case: what a limit costs is a part of what a job takes."
    )
    heads = ["", "to a plain queue", "plain: PostgreSQL µs/job", "limited: PostgreSQL µs/job"]
    return f"{text}\n\n{_table(heads, rows)}"


def workflows(found: Found, known: Mapping[str, Figures]) -> str:
    """What members cost beside plain jobs of the same turns, and how long statements that write outcomes take."""
    columns = [
        Column("jobs", lambda figure: figure.get("jobs"), 0),
        Column("Python µs/job", median("python_us")),
        Column("PostgreSQL µs/job", median("postgres_us")),
        Column("WAL bytes/job", median("wal_bytes")),
        Column("cycle p99 ms", latency("p99"), 1),
        Column("cycle max ms", latency("max"), 1),
    ]
    rows = []
    for scenario, figures in found:
        plain, ours = (figures.get(name, {}) for name in results.OWN)
        ratios = [
            theirs / mine if theirs is not None and mine else None
            for mine, theirs in (
                (results.median(plain, "rate"), results.median(ours, "rate")),
                (results.median(plain, "postgres_us"), results.median(ours, "postgres_us")),
                (latency("p99")(plain), latency("p99")(ours)),
            )
        ]
        if any(ratio is not None for ratio in ratios):
            rows.append([scenario.title, *map(_times, ratios)])
    text = (
        "Each is played in turns with what the first line says. A cycle is a statement that writes outcomes and "
        "fetches jobs. Others get a part of the work where they are slow, which the column of jobs tells; of them only "
        "the rate is comparable, and what each makes of a shape is told in its file in `benchmarks/peers`."
    )
    heads = ["", "rate", "PostgreSQL µs/job", "cycle p99"]
    parts = [f"{text}\n\n{_by_columns(found, columns)}"]
    if rows:
        parts.append(f"oban_sa's as ratios to the first line:\n\n{_table(heads, rows, named=1)}")
    return "\n\n".join(parts)


def latencies(found: Found, known: Mapping[str, Figures]) -> str:
    """Percentiles; of few samples no p99.9."""
    columns = [
        Column("samples", lambda figure: figure.get("samples"), 0),
        Column("p50", latency("p50"), 2),
        Column("p99", latency("p99"), 2),
        Column("p99.9", lambda figure: latency("p999")(figure) if figure.get("samples", 0) >= 1000 else None, 2),
        Column("max", latency("max"), 2),
    ]
    text = "Milliseconds; p99.9 only where there are a thousand samples or more."
    return f"{text}\n\n{_by_columns(found, columns)}"


def enqueued(found: Found, known: Mapping[str, Figures]) -> str:
    """What each job costs that is enqueued."""
    columns = [
        Column("Python µs/job", median("python_us")),
        Column("WAL bytes/job", median("wal_bytes")),
        Column("statements/job", median("statements"), 2),
    ]
    return f"{COUNTED}\n\n{_by_columns(found, columns)}"


def application(found: Found, known: Mapping[str, Figures]) -> str:
    """What each transaction of an application's costs."""
    columns = [
        Column("Python µs/transaction", median("python_us")),
        Column("statements/transaction", median("statements"), 2),
    ]
    return f"{COUNTED}\n\n{_by_columns(found, columns)}"


def at_rest(found: Found, known: Mapping[str, Figures]) -> str:
    """What nodes with nothing to do cost."""
    columns = [
        Column("statements/s", median("statements_per_s"), 1),
        Column("commits/s", median("commits_per_s"), 1),
        Column("PostgreSQL ms/s", median("postgres_ms_per_s"), 1),
        Column("nodes ms/s", median("python_ms_per_s"), 1),
        Column("connections", median("connections"), 0),
        Column("MB a node", median("memory_mb"), 0),
    ]
    text = f"Each second of all nodes together, in statements, commits and milliseconds of CPU. {COUNTED}"
    return f"{text}\n\n{_by_columns(found, columns)}"


CROWD = (
    Column("p50 ms", latency("p50"), 2),
    Column("p99 ms", latency("p99"), 2),
    Column("statements/job", median("statements"), 1),
    Column("commits/job", median("commits"), 1),
    Column("PostgreSQL µs/job", median("postgres_us")),
    Column("nodes µs/job", median("python_us")),
    Column("connections", median("connections"), 0),
)


def crowd(found: Found, known: Mapping[str, Figures]) -> str:
    """What a job costs one node and many, and how often as much many cost."""
    text = (
        "What each job costs all nodes together, with all that they do between jobs and the application's own "
        f"transaction. {COUNTED}"
    )
    parts = [f"{text}\n\n{_by_columns(found, CROWD)}"]
    alone, together = known.get("crowd_1", {}), known.get("crowd_20", {})
    rows = []
    for name in together:
        pairs = [(each.value(together[name]), each.value(alone.get(name, {}))) for each in CROWD]
        ratios = [many / one if many is not None and one else None for many, one in pairs]
        if any(ratio is not None for ratio in ratios):
            rows.append([name, *map(_times, ratios)])
    if rows:
        head = ["", *(each.head.removesuffix(" ms") for each in CROWD)]
        parts.append(f"Twenty nodes as ratios to one:\n\n{_table(head, rows, named=1)}")
    return "\n\n".join(parts)


COUNTED = "Statements are counted by the server, `BEGIN` and `COMMIT` included."


# Pieces


def name_of(scenario: Scenario, contender: str) -> str:
    """What a contender is called in a scenario."""
    return scenario.called.get(contender, contender)


def number(value: float) -> str:
    """A number with about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _by_columns(found: Found, columns: Sequence[Column]) -> str:
    """A row for each contender of each scenario of which any column is known."""
    rows = []
    for scenario, figures in found:
        for name, figure in figures.items():
            cells = [column.cell(figure) for column in columns]
            if any(cells):
                rows.append([scenario.title, name_of(scenario, name), *cells])
    return _table(["", "who", *(column.head for column in columns)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, named: int = 2) -> str:
    """Rows of cells, to the left in the first `named` columns; what stands in the first is not said again below."""
    shown: list[Sequence[str]] = []
    above = ""
    for first, *others in rows:
        shown.append(["" if first == above else first, *others])
        above = first
    lines = [head, ["---"] * named + ["---:"] * (len(head) - named), *shown]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
