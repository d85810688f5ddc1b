"""The pytest plugin of oban_sa: two fixtures, described in `docs/testing.md`.

It stands outside of the package because pytest imports every installed plugin at its start, in projects too whose
tests have nothing to do with jobs: so nothing of oban_sa is imported before a test asks for a fixture.
`-p no:oban_sa` switches it off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from oban_sa import Job
    from oban_sa.testing import Ran


@pytest.fixture
def oban_inline() -> Iterator[Ran]:
    """Run every job that the test enqueues right after its transaction commits; answers what ran and what failed."""
    from oban_sa.testing import inline

    with inline() as ran:
        yield ran


@pytest.fixture
def oban_made() -> Iterator[list[Job]]:
    """The jobs that the test has made so far, enqueued or not; needs no database."""
    from oban_sa import hooks

    made: list[Job] = []
    remove = hooks.after_new(made.append)
    yield made
    remove()
