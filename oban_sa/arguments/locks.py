"""`ForUpdate`: how the row of an argument is locked when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sa.errors import InvalidOption


@dataclass(frozen=True, slots=True, kw_only=True)
class ForUpdate:
    """Lock the row of a mapped object until the attempt commits: `Annotated[User, ForUpdate()]`.

    Without options the attempt waits for the transaction that holds the row. With `nowait` it fails at once and is
    tried again after the worker's backoff; with `skip_locked` the job snoozes for a few seconds, which costs no
    attempt. `read` asks for `FOR SHARE`, `key_share` for `FOR NO KEY UPDATE`, both for `FOR KEY SHARE`.
    """

    nowait: bool = False
    skip_locked: bool = False
    read: bool = False
    key_share: bool = False

    def __post_init__(self) -> None:
        if self.nowait and self.skip_locked:
            raise InvalidOption("ForUpdate takes nowait or skip_locked, not both: the job either fails or snoozes")
