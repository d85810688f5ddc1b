"""Draw a workflow as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oban_sa.flows.parts import GraftPlace, Group, Part, SubWorkflow
from oban_sa.jobs.flow import FORGIVES

if TYPE_CHECKING:
    from oban_sa.flows.workflow import Workflow


def draw(workflow: Workflow) -> str:
    """Return the flowchart: an arrow from each part to what waits for it, dotted where a failure is forgiven."""
    return "\n".join(["flowchart TD", *_lines(workflow, "n", "    ")]) + "\n"


def _lines(workflow: Workflow, prefix: str, indent: str) -> Iterator[str]:
    names = {name: f"{prefix}{number}" for number, name in enumerate(workflow.parts)}
    for name, part in workflow.parts.items():
        yield from _node(part, names[name], indent)
    for name, part in workflow.parts.items():
        for parent, bits in part.waits.items():
            arrow = f"-. {_forgiven(bits)} .->" if bits else "-->"
            yield f"{indent}{names[parent]} {arrow} {names[name]}"


def _node(part: Part, name: str, indent: str) -> Iterator[str]:
    label = _quoted(part.name)
    if isinstance(part, SubWorkflow):
        yield f'{indent}subgraph {name}["{label}"]'
        yield from _lines(part.inner, f"{name}_", indent + "    ")
        yield f"{indent}end"
    elif isinstance(part, Group):
        yield f'{indent}{name}[["{label} ({len(part.jobs)})"]]'
    elif isinstance(part, GraftPlace):
        yield f'{indent}{name}[/"{label}"\\]'
    else:
        yield f'{indent}{name}["{label}"]'


def _forgiven(bits: int) -> str:
    return next(
        (word for word, each in FORGIVES.items() if each == bits),
        " or ".join(word for word, each in FORGIVES.items() if word != "all" and each & bits),
    )


def _quoted(name: str) -> str:
    """Write a name so that no character of it is read as a part of the drawing."""
    return "".join(each if each.isalnum() or each in " _-./" else f"#{ord(each)};" for each in name)
