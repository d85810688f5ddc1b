"""A private PostgreSQL for trying things out, for development and for tests.

    with embedded.start(".oban") as server:      # or `async with`
        engine = create_async_engine(server.url.replace("postgresql://", "postgresql+asyncpg://"))

The first user of a folder starts the server, later ones attach to it, and it stops when the last one has left, however
that one ended. The data stays in the folder.

How it hangs together, and why:

- A user is an open `flock` on `users.lock`. The kernel drops it when a process ends, `kill -9` included, so a dead user
  never counts and nothing has to be cleaned up.
- The server belongs to a supervisor, a small process of its own (`supervisor.py`), not to the user who came first: that
  one may leave long before the others. It stops the server as soon as it can lock `users.lock` exclusively, which is
  when no user is left. Dying itself, it takes the server along (`PR_SET_PDEATHSIG`, Linux); where the kernel can't do
  that, the next start stops what was left behind.
- One supervisor per folder: it holds `server.lock`. Of several that start at once one wins, and the others give way.
- `server.json` says where the running server is. Its writer keeps it locked, so a file that nobody holds is left over
  from a crash and means nothing.
- The server listens on 127.0.0.1 only and wants a random password (SCRAM), which stands in files of mode 0600. There is
  no Unix socket: its path may not be longer than 107 bytes, and SQLAlchemy's URLs for it are no pleasure. Trusting
  everyone on the loopback would hand the database to every account of the machine.
- PostgreSQL refuses to run as root, so then the supervisor becomes another, existing account (`account.py`).
"""

from __future__ import annotations

from oban_sa.embedded.attachment import Attachment, start
from oban_sa.embedded.binaries import Binaries, found
from oban_sa.embedded.failure import EmbeddedError
from oban_sa.embedded.server import Server

__all__ = ["Attachment", "Binaries", "EmbeddedError", "Server", "found", "start"]
