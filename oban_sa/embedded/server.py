"""A running server: its address, password and properties."""

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
    """A private PostgreSQL that runs; `url`, with the password in it, is valid until the server stops."""

    folder: Path
    """The folder that was given to `start`."""
    data: Path
    """The data directory; below `folder`, except where root's server could not get there."""
    port: int
    """The port on 127.0.0.1; the same at every start, unless another program has taken it since."""
    pid: int
    """The process id of the postmaster."""
    version: str
    """The version that `postgres --version` prints, `18.6`."""
    fast: bool
    """Whether it may lose its last commits when it is killed, and everything when the machine crashes."""
    password: str

    @property
    def url(self) -> str:
        """A `postgresql://` URL for any driver; its role is a superuser."""
        return f"postgresql://{ROLE}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{DATABASE}"

    def __repr__(self) -> str:
        """Return a text without the password."""
        return f"Server(port={self.port}, pid={self.pid}, version={self.version!r}, folder={str(self.folder)!r})"

    @classmethod
    def from_json(cls, text: str, *, folder: Path) -> Server:
        """Read the `server.json` that the supervisor wrote."""
        said: dict[str, Any] = json.loads(text)
        data = Path(said.pop("data"))
        return cls(folder=folder, data=data, **said)
