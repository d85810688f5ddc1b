"""The text that Prometheus reads, read again by its own parser."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from oban_sa.prometheus import Collector
from oban_sa.prometheus.exposition import text
from oban_sa.prometheus.families import FAMILIES, SECONDS
from oban_sa.prometheus.snapshot import Snapshot, Value, distribution, told_apart


def everything() -> Snapshot:
    """A figure of each family."""
    seconds = distribution()
    seconds[0], seconds[3], seconds[-2], seconds[-1] = 1.0, 2.0, 3.0, 4_000.5
    found: Snapshot = {}
    for family in FAMILIES.values():
        value: Value = seconds if family.kind == "histogram" else 7.0
        found[family.name] = {tuple(f'a "{label}"\n\\' for label in family.labels): value}
    return found


def read(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_family_is_written_with_its_labels_whatever_is_in_their_values() -> None:
    samples = read(text(everything()))
    for family in FAMILIES.values():
        labels = tuple(sorted((label, f'a "{label}"\n\\') for label in family.labels))
        if family.kind == "histogram":
            assert samples[f"{family.name}_count", labels] == 6
            assert samples[f"{family.name}_sum", labels] == 4_000.5
        else:
            assert samples[family.name, labels] == 7.0


def test_buckets_count_all_that_lies_below() -> None:
    samples = read(text({"oban_fetch_seconds": {("mailers",): [1.0, 0.0, 0.0, 2.0, *[0.0] * 12, 3.0, 9.0]}}))
    bounds = [f"{bound:g}" for bound in SECONDS]
    found = {
        dict(labels)["le"]: value for (name, labels), value in samples.items() if name == "oban_fetch_seconds_bucket"
    }
    assert {float(bound) for bound in found} == {*map(float, bounds), float("inf")}
    by_bound = {float(bound): value for bound, value in found.items()}
    assert (by_bound[0.005], by_bound[0.025], by_bound[0.05], by_bound[3600.0], by_bound[float("inf")]) == (
        1,
        1,
        3,
        3,
        6,
    )


def test_runners_of_one_process_have_a_label_more() -> None:
    body = text(told_apart({"acme": everything(), "globex": everything()}))
    assert read(body)["oban_rescued_total", (("runner", "acme"),)] == 7.0
    assert body.count(b"# TYPE oban_rescued_total") == 1


def test_a_registry_of_the_program_collects_a_runner() -> None:
    class Measured:
        def metrics(self) -> Snapshot:
            return everything()

    registry = CollectorRegistry()
    registry.register(Collector(Measured()))
    assert registry.get_sample_value("oban_rescued_total") == 7.0


def test_without_the_client_library_the_error_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['prometheus_client'] = None\nimport oban_sa.prometheus\noban_sa.prometheus.Collector\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'oban-sa[prometheus]'" in done.stderr


def test_another_name_is_no_part_of_the_package() -> None:
    import oban_sa.prometheus as package

    with pytest.raises(AttributeError, match="has no attribute 'Collectors'"):
        _ = package.Collectors
