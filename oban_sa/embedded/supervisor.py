"""The process that owns a server: makes its data, starts it, and stops it when its last user has left.

Run as a program by its path, `python -I -S supervisor.py`, with a plan (JSON) on its standard input. It uses the
standard library alone and imports everything before it gives up root's rights: the account it becomes may not be able
to read this environment. Exit codes of the process that was started: 0 a supervisor is at work (in the background, in
a session of its own), 3 another one already was.
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
from typing import Any, NoReturn

try:
    import ctypes

    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
except (ImportError, OSError):
    libc = None

PR_SET_PDEATHSIG = 1
EVERY = 0.1
"""Seconds between two looks at the users and the server."""
PATIENCE = 30.0
"""Seconds for a server to become ready, or to stop."""
LOG_LIMIT = 5_000_000
"""Bytes; a longer log is begun anew at the next start."""
MAY_PASS = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""What PostgreSQL says while remains of a killed server are still ending."""


class StartError(Exception):
    """The server can't run; `kind` is "port" where another port would help."""

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Supervisor:
    """One server, from its start to its end."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.home = Path(plan["home"])
        self.bin = Path(plan["bin"])
        self.version: str = plan["version"]
        self.port: int = plan["port"]
        self.fast: bool = plan["fast"]
        self.settings: dict[str, str] = plan["settings"]
        self.data = self.home / "data"
        self.log_from = 0
        self.asked_to_stop = False

    def run(self) -> None:
        """Start the server, keep it while it has users, stop it."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        for name in ("server.json", "failure"):
            (self.home / name).unlink(missing_ok=True)
        users = os.open(self.home / "users.lock", os.O_RDWR)
        try:
            if not self.data.exists():
                self._make_data()
            self._end_what_was_left_behind()
            self._settle_durability()
            server = self._start()
        except (StartError, OSError) as failure:
            kind = failure.kind if isinstance(failure, StartError) else ""
            (self.home / "failure").write_text(f"{kind}\n{failure}", encoding="utf-8")
            return
        info = self._announce(server.pid)
        while server.poll() is None and not self.asked_to_stop:
            if locked(users):
                break  # and stays locked: whoever comes now waits until this server is gone, then starts the next one
            time.sleep(EVERY)
        (self.home / "server.json").unlink(missing_ok=True)
        stop(server.pid, lambda: server.poll() is not None)
        os.close(info)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def _make_data(self) -> None:
        """Make the data beside its place and move it there whole, so that half of it is never taken for all."""
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
        # One that is the same on every system, and from 17 on knows letters beyond ASCII.
        if int(self.version.partition(".")[0]) < 17:
            return ["--no-locale"]
        return ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]

    def _end_what_was_left_behind(self) -> None:
        """Stop a server without a supervisor, and clear away the trace of one that is gone.

        PostgreSQL takes any living process with the number in `postmaster.pid` for a server; after a crash that
        number may be anybody's, so it is only believed of a process that works in our data directory.
        """
        trace = self.data / "postmaster.pid"
        try:
            pid = int(trace.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0])
        except (OSError, ValueError):
            return
        with contextlib.suppress(PermissionError):  # not to be seen: then PostgreSQL's own caution has to do
            if serves(pid, self.data):
                stop(pid, lambda: not serves(pid, self.data))
            trace.unlink(missing_ok=True)

    def _settle_durability(self) -> None:
        """Before durable use, carry to the disk what fast uses left to the system's leisure."""
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
            said = self._said()
            if any(words in said for words in MAY_PASS) and time.monotonic() < deadline:
                time.sleep(EVERY)
                continue
            taken = "Address already in use" in said or "could not bind" in said
            raise StartError(f"PostgreSQL {self.version} did not start:\n{said}", kind="port" if taken else "")

    def _launch(self) -> subprocess.Popen[bytes]:
        log = self.home / "log"
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

    def _said(self) -> str:
        """The end of what the server said since it was started."""
        with (self.home / "log").open("rb") as file:
            file.seek(self.log_from)
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-15:])

    def _announce(self, pid: int) -> int:
        """Write where the server is; the open file that is returned stays locked as long as that is true."""
        said = {
            "data": str(self.data),
            "port": self.port,
            "pid": pid,
            "version": self.version,
            "fast": self.fast,
            "password": (self.data / "oban.password").read_text(encoding="utf-8"),
        }
        (self.home / "port").write_text(str(self.port), encoding="utf-8")
        draft = self.home / "server.json.new"
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, json.dumps(said).encode())
        draft.rename(self.home / "server.json")
        return fd


def locked(fd: int) -> bool:
    """Lock the open file exclusively; False where others hold it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def tied_to(parent: int, number: int) -> Callable[[], None]:
    """What a new process does first, so that it gets signal `number` when the process `parent` dies."""

    def tie() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:  # it died before it could be tied to
                os._exit(1)

    return tie


def serves(pid: int, data: Path) -> bool:
    """Whether the process is a server on exactly this data; PermissionError where the system does not let us see."""
    if Path("/proc/self/cwd").exists():
        try:
            return os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(data)
        except FileNotFoundError:  # gone, or a zombie
            return False
        except PermissionError:
            # Not every process of ours shows where it works, but its name is public.
            with contextlib.suppress(FileNotFoundError):
                if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    raise
            return False
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return "postgres" in command and str(data) in command


def stop(pid: int, gone: Callable[[], bool]) -> None:
    """End a server: politely (sessions end), then at once (recovers at the next start), then by force."""
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if gone():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while not gone() and time.monotonic() < deadline:
            time.sleep(0.01)


def environment() -> dict[str, str]:
    """The environment, with the same time zone and the same words (see `MAY_PASS`) on every machine."""
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def become(account: dict[str, Any]) -> None:
    """Give up root's rights for good."""
    os.setgroups(account["groups"])
    os.setgid(account["gid"])
    os.setuid(account["uid"])


def main() -> NoReturn:
    plan: dict[str, Any] = json.loads(sys.stdin.read())
    os.umask(0o077)
    os.chdir("/")  # it may outlive the folder it was started from, and must not keep it busy
    if plan["account"] is not None:
        become(plan["account"])
    home = Path(plan["home"])
    lock = os.open(home / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not locked(lock):
        sys.exit(3)
    # The lock is taken before this process answers, so that its caller knows: free again means failed or over.
    if os.fork() > 0:
        os._exit(0)
    # Ctrl-C in the terminal of whoever came first is not meant for the others' server.
    os.setsid()
    for fd in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    try:
        Supervisor(plan).run()
    except BaseException as error:
        (home / "failure").write_text(f"\nits supervisor broke: {error!r}", encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main()
