"""Many jobs as one: workflows, which are graphs of jobs, and their groups."""

from __future__ import annotations

from oban_sa.flows.batch import Batch as Batch
from oban_sa.flows.dependencies import Dependency as Dependency
from oban_sa.flows.dependencies import Deps as Deps
from oban_sa.flows.dependencies import deps as deps
from oban_sa.flows.graft import Graft as Graft
from oban_sa.flows.parts import Group as Group
from oban_sa.flows.parts import Member as Member
from oban_sa.flows.parts import SubWorkflow as SubWorkflow
from oban_sa.flows.workflow import Workflow as Workflow
from oban_sa.flows.workflow import chain as chain

__all__ = ["Batch", "Dependency", "Deps", "Graft", "Group", "Member", "SubWorkflow", "Workflow", "chain", "deps"]
