"""The process that owns a server: it makes the data, starts the server, and stops it when no user is left.

Run as a program by its path, `python -I -S supervisor.py`, with a plan (JSON, see `Attachment._supervise`) on its
standard input. It is one file, uses the standard library alone and imports everything before it gives up root's rights:
the account it changes to may not be able to read this environment. Exit codes of the process that was started: 0 a
supervisor runs now (in the background, in a session of its own), 3 another one was running.
"""

# ruff: noqa: S603 - programs are started here by absolute paths and without a shell

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypedDict

try:
    import ctypes

    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
except (ImportError, OSError):
    libc = None

DATA, LOG, USERS, LOCK = "data", "log", "users.lock", "server.lock"
SERVER, PORT, FAILURE = "server.json", "port", "failure"
"""Names of the files in a home, which the supervisor and the users of its server share."""
PR_SET_PDEATHSIG = 1
EVERY = 0.1
"""Seconds between two checks of the users and the server."""
PATIENCE = 30.0
"""Seconds for a server to become ready, or to stop."""
LOG_LIMIT = 5_000_000
"""Bytes; a longer log is emptied at the next start."""
MAY_PASS = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""What PostgreSQL prints while processes of a killed server are still ending."""


class AccountPlan(TypedDict):
    """The account to run under, by its numbers."""

    uid: int
    gid: int
    groups: list[int]


class Plan(TypedDict):
    """What to start: the directories of the home and of the programs, and how; `account` where root starts it."""

    home: str
    account: AccountPlan | None
    bin: str
    version: str
    port: int
    fast: bool
    settings: dict[str, str]


class StartError(Exception):
    """The server can't run; `kind` is "port" where another port would help."""

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Supervisor:
    """One server, from its start to its end."""

    def __init__(self, plan: Plan) -> None:
        self.home = Path(plan["home"])
        self.bin = Path(plan["bin"])
        self.version = plan["version"]
        self.port = plan["port"]
        self.fast = plan["fast"]
        self.settings = plan["settings"]
        self.data = self.home / DATA
        self.log_from = 0
        self.asked_to_stop = False

    def run(self) -> None:
        """Start the server, keep it while it has users, stop it."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        for name in (SERVER, FAILURE):
            (self.home / name).unlink(missing_ok=True)
        users = os.open(self.home / USERS, os.O_RDWR)
        try:
            if not self.data.exists():
                self._make_data()
            self._stop_orphan()
            self._sync_data()
            server = self._start()
        except (StartError, OSError) as failure:
            kind = failure.kind if isinstance(failure, StartError) else ""
            (self.home / FAILURE).write_text(f"{kind}\n{failure}", encoding="utf-8")
            return
        info = self._announce(server.pid)
        while server.poll() is None and not self.asked_to_stop:
            if try_lock(users):
                break  # and it stays locked: users that come now wait for this server to stop, then start the next one
            time.sleep(EVERY)
        (self.home / SERVER).unlink(missing_ok=True)
        stop(server.pid, lambda: server.poll() is not None)
        os.close(info)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def _make_data(self) -> None:
        """Make the data in a directory beside and rename that, so that incomplete data is never used."""
        for remains in self.home.glob("data.new-*"):
            shutil.rmtree(remains, ignore_errors=True)
        new = self.home / f"data.new-{secrets.token_hex(4)}"
        secret = self.home / "password.new"
        secret.write_text(secrets.token_urlsafe(24), encoding="utf-8")
        options = ["-U", "oban", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", *self._locale()]
        self._initdb(new, *options, *(["--no-sync"] if self.fast else []))
        secret.rename(new / "oban.password")
        (new / "pg_hba.conf").write_text("host all,replication all 127.0.0.1/32 scram-sha-256\n", encoding="utf-8")
        new.rename(self.data)

    def _initdb(self, data: Path, *options: str) -> None:
        done = subprocess.run(
            [self.bin / "initdb", "-D", data, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            preexec_fn=tied_to(os.getpid(), signal.SIGKILL),
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"initdb failed:\n{done.stdout.decode(errors='replace').strip()}")

    def _locale(self) -> list[str]:
        # A locale that is the same on every system and, from PostgreSQL 17 on, knows letters beyond ASCII.
        if int(self.version.partition(".")[0]) < 17:
            return ["--no-locale"]
        return ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]

    def _stop_orphan(self) -> None:
        """Stop a server whose supervisor died, and remove the `postmaster.pid` of one that is gone.

        PostgreSQL takes any living process with the number in `postmaster.pid` for a server. After a crash that number
        may be another program's, so only a process that runs in our data directory is taken for one.
        """
        trace = self.data / "postmaster.pid"
        try:
            pid = int(trace.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0])
        except (OSError, ValueError):
            return
        with contextlib.suppress(PermissionError):  # hidden by the system: PostgreSQL's own check has to be enough
            if serves(pid, self.data):
                stop(pid, lambda: not serves(pid, self.data))
            trace.unlink(missing_ok=True)

    def _sync_data(self) -> None:
        """Before a durable start, sync to the disk what fast ones left in the system's caches."""
        unsynced = self.home / "unsynced"
        if self.fast:
            unsynced.touch()
        elif unsynced.exists():
            self._initdb(self.data, "--sync-only")
            unsynced.unlink()

    def _start(self) -> subprocess.Popen[bytes]:
        deadline = time.monotonic() + PATIENCE
        while True:
            server = self._launch()
            if self._became_ready(server, deadline):
                return server
            said = self._last_log()
            if any(words in said for words in MAY_PASS) and time.monotonic() < deadline:
                time.sleep(EVERY)
                continue
            taken = "Address already in use" in said or "could not bind" in said
            raise StartError(f"PostgreSQL {self.version} did not start:\n{said}", kind="port" if taken else "")

    def _launch(self) -> subprocess.Popen[bytes]:
        log = self.home / LOG
        too_long = log.exists() and log.stat().st_size > LOG_LIMIT
        with log.open("wb" if too_long else "ab") as file:
            self.log_from = file.tell()
            return subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(),
                # SIGINT is a fast and clean stop: the data is whole, only the sessions end.
                preexec_fn=tied_to(os.getpid(), signal.SIGINT),
            )

    def _options(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "200",
            "max_prepared_transactions": "20",
            "log_checkpoints": "off",
            "lc_messages": "C",
            **({"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"} if self.fast else {}),
            **self.settings,
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _became_ready(self, server: subprocess.Popen[bytes], deadline: float) -> bool:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
                if lines[0] == str(server.pid) and len(lines) > 7 and lines[7].strip() == "ready":
                    return True
            if time.monotonic() > deadline:
                stop(server.pid, lambda: server.poll() is not None)
                break
            time.sleep(0.01)
        return False

    def _last_log(self) -> str:
        """Return the last lines that the server logged since it was started."""
        with (self.home / LOG).open("rb") as file:
            file.seek(self.log_from)
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-15:])

    def _announce(self, pid: int) -> int:
        """Write `server.json`; return it as an open and locked file, to be closed when the server has stopped."""
        said = {
            "data": str(self.data),
            "port": self.port,
            "pid": pid,
            "version": self.version,
            "fast": self.fast,
            "password": (self.data / "oban.password").read_text(encoding="utf-8"),
        }
        (self.home / PORT).write_text(str(self.port), encoding="utf-8")
        draft = self.home / "server.json.new"
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, json.dumps(said).encode())
        draft.rename(self.home / SERVER)
        return fd


def try_lock(fd: int) -> bool:
    """Try to lock the open file exclusively; return False where another process has a lock on it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def tied_to(parent: int, number: int) -> Callable[[], None]:
    """Return a function for a new process to call first, so that it gets signal `number` when `parent` dies."""

    def tie() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:  # it died before it could be tied to
                os._exit(1)

    return tie


def serves(pid: int, data: Path) -> bool:
    """Return whether the process is a server on exactly this data; raises PermissionError where the system hides it."""
    if Path("/proc/self/cwd").exists():
        try:
            return os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(data)
        except FileNotFoundError:  # gone, or a zombie
            return False
        except PermissionError:
            # The directory of a process may be hidden, but its command line is public.
            with contextlib.suppress(FileNotFoundError):
                if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    raise
            return False
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return "postgres" in command and str(data) in command


def stop(pid: int, gone: Callable[[], bool]) -> None:
    """Stop a server: by SIGINT (sessions end), then SIGQUIT (it recovers at the next start), then SIGKILL."""
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if gone():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while not gone() and time.monotonic() < deadline:
            time.sleep(0.01)


def environment() -> dict[str, str]:
    """Return the environment, with UTC and English messages (see `MAY_PASS`) on every machine."""
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def become(account: AccountPlan) -> None:
    """Change to an account and give up root's rights for good."""
    os.setgroups(account["groups"])
    os.setgid(account["gid"])
    os.setuid(account["uid"])


def main() -> NoReturn:
    plan: Plan = json.loads(sys.stdin.read())
    os.umask(0o077)
    os.chdir("/")  # it may outlive the folder it was started from, and must not keep it busy
    if plan["account"] is not None:
        become(plan["account"])
    home = Path(plan["home"])
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not try_lock(lock):
        sys.exit(3)
    # Locked before this process ends: when the caller sees it free again, the supervisor has failed or ended.
    if os.fork() > 0:
        os._exit(0)
    # A session of its own: Ctrl-C in the first user's terminal must not stop the server of the others.
    os.setsid()
    for fd in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    try:
        Supervisor(plan).run()
    except BaseException as error:
        (home / FAILURE).write_text(f"\nits supervisor broke: {error!r}", encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main()
