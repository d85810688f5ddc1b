"""Names of attributes: those of OpenTelemetry's conventions for messaging (1.45, in development), and ours."""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
QUEUE: Final = "messaging.destination.name"
MESSAGE: Final = "messaging.message.id"
BATCH: Final = "messaging.batch.message_count"
ERROR: Final = "error.type"

WORKER: Final = "oban.job.worker"
ATTEMPT: Final = "oban.job.attempt"
MAX_ATTEMPTS: Final = "oban.job.max_attempts"
STATE: Final = "oban.job.state"

OBAN: Final = "oban"
"""The value of `SYSTEM`."""
