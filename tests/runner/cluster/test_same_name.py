"""Two living nodes of one name are told of, and a node that was started anew under its old name is not."""

from __future__ import annotations

import pytest

from tests.runner.conftest import Harness
from tests.runner.maintenance.test_lifeline import producer_row
from tests.support import eventually


async def test_a_living_node_of_the_same_name_is_told_of_once_and_shown_while_it_lives(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await producer_row(harness, silent_for=0, meta={}, node="web")  # of a life that ended
    async with harness.runner(node="web", heartbeat_every=0.1) as runner:
        async with harness.runner(node="web", heartbeat_every=0.1, queues={"mail": 1}):

            async def shown() -> None:
                check = (await runner.checks.ready()).get("name")
                assert check is not None and check.well
                assert check.detail == "another living node has this name and works on mail"

            await eventually(shown)

        async def gone() -> None:
            assert "name" not in await runner.checks.ready()

        await eventually(gone)
    told = [said for said in caplog.messages if "is named web too" in said]
    assert sum("works on mail;" in said for said in told) == 1
    assert not [said for said in told if "works on default, mail" in said]
