"""Sentry's SDK with a transport that keeps what would be sent, and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from oban_sa.sentry import ObanIntegration
from tests.runner.conftest import harness, registry

__all__ = ["harness", "registry"]


class Kept(Transport):
    """What was told to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [item.payload.json for item in envelope.items if item.payload.json is not None]

    @property
    def transactions(self) -> list[dict[str, Any]]:
        """Those that have ended."""
        return [each for each in self.items if each.get("type") == "transaction"]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Events that are errors or messages."""
        return [each for each in self.items if each.get("type") != "transaction" and "event_id" in each]

    def attempt(self) -> dict[str, Any]:
        """The transaction of the only attempt there was."""
        [found] = [each for each in self.transactions if each["contexts"]["trace"]["op"] == "queue.process"]
        return found


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def sentry(kept: Kept) -> Iterator[Callable[..., None]]:
    """Switch it on with these options, of the integration and of the SDK; it is off again after the test."""

    def on(*, capture: Any = "discarded", publish_spans: bool = True, **options: Any) -> None:
        sentry_sdk.init(
            dsn="http://key@localhost/1",
            transport=kept,
            # Others would change threads and clients of all tests that come later in this process.
            default_integrations=False,
            integrations=[LoggingIntegration(), ObanIntegration(capture=capture, publish_spans=publish_spans)],
            **{"traces_sample_rate": 1.0, **options},
        )
        ObanIntegration.setup_once()  # the SDK does so once in a process

    with sentry_sdk.isolation_scope():
        yield on
    ObanIntegration.remove()
    sentry_sdk.get_global_scope().set_client(None)
    sentry_sdk.get_isolation_scope().set_client(None)
