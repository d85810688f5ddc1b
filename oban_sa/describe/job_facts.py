"""What a record of the log says of a job beside its text."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {"job_id": "id", "worker": "worker", "queue": "queue", "attempt": "attempt"}


def job_facts(job: object) -> dict[str, object]:
    """Return `job_id`, `worker`, `queue` and `attempt` of a job, for `extra`.

    What a session of its code has expired is left out: nothing of it can be loaded there, and no line may fail by it.
    """
    loaded = vars(job)
    return {key: loaded[name] for key, name in _NAMES.items() if name in loaded}
