"""A running server, as those who use it know it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROLE = "oban"
DATABASE = "postgres"


@dataclass(frozen=True, slots=True)
class Server:
    """Where a private PostgreSQL listens; `url` has the password in it, and is good until the server stops."""

    folder: Path
    """The folder it was asked for in."""
    data: Path
    """The data directory; below `folder`, except where root's server could not get there."""
    port: int
    """The port on 127.0.0.1; the same at every start, unless somebody else has taken it since."""
    pid: int
    """The process id of the postmaster."""
    version: str
    """What `postgres --version` says, `18.6`."""
    fast: bool
    """Whether it may lose its last commits when it is killed, and everything when the machine goes down."""
    password: str

    @property
    def url(self) -> str:
        """A `postgresql://` URL for any driver; the role in it may do everything."""
        return f"postgresql://{ROLE}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{DATABASE}"

    def __repr__(self) -> str:
        """Say where it is without giving the password away."""
        return f"Server(port={self.port}, pid={self.pid}, version={self.version!r}, folder={str(self.folder)!r})"

    @classmethod
    def from_json(cls, text: str, *, folder: Path) -> Server:
        """Read what the supervisor wrote."""
        said: dict[str, Any] = json.loads(text)
        data = Path(said.pop("data"))
        return cls(folder=folder, data=data, **said)
