"""A private PostgreSQL for trying things out, for development and for tests.

    with embedded.start(".oban") as server:      # or `async with`
        engine = create_async_engine(server.url.replace("postgresql://", "postgresql+asyncpg://"))

The first user of a folder starts the server, later ones attach to it, and it stops when the last user has ended in any
way. The data stays in the folder.

How it works, and why:

- Each user has a shared `flock` on `users.lock`. The kernel releases it when a process ends, also by `kill -9`, so a
  dead user never counts and nothing has to be cleaned up.
- The server is a child of a supervisor, a small process of its own (`supervisor.py`), and not of the first user, which
  may end long before the others. The supervisor stops the server as soon as it can lock `users.lock` exclusively: then
  no user is left. If the supervisor dies, the kernel ends the server (`PR_SET_PDEATHSIG`, Linux); on other systems the
  next start stops it.
- There is one supervisor for each folder, with an exclusive lock on `server.lock`. Of several that start at the same
  time one gets it, and the others end.
- `server.json` has the address of the running server. The supervisor keeps it locked, so a file without a lock was left
  by a crash and is ignored.
- The server listens on 127.0.0.1 only and requires a random password (SCRAM), stored in files of mode 0600. There is no
  Unix socket: its path may not be longer than 107 bytes, and SQLAlchemy's URLs for it are awkward. Without a password
  every account of the machine could use the database.
- PostgreSQL refuses to run as root, so root's supervisor changes to another, existing account (`account.py`).
"""

from __future__ import annotations

from oban_sa.embedded.attachment import Attachment, start
from oban_sa.embedded.binaries import Binaries, found
from oban_sa.embedded.server import Server
from oban_sa.errors import EmbeddedError

__all__ = ["Attachment", "Binaries", "EmbeddedError", "Server", "found", "start"]
