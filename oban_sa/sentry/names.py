"""Names by which Sentry's page of queues finds what it shows, and ours."""

from __future__ import annotations

from typing import Final

ORIGIN: Final = "auto.queue.oban"
PROCESS: Final = "queue.process"
PUBLISH: Final = "queue.publish"

SYSTEM: Final = "messaging.system"
QUEUE: Final = "messaging.destination.name"
MESSAGE: Final = "messaging.message.id"
SIZE: Final = "messaging.message.body.size"
LATENCY: Final = "messaging.message.receive.latency"
"""From when a job was due until it was fetched, in milliseconds."""
RETRIES: Final = "messaging.message.retry.count"

OBAN: Final = "oban"
"""The value of `SYSTEM`, and the context of events that says which job it was."""
