"""`python -m oban_sa.service.member_main`: one of several runners, as their supervisor starts it.

Its standard input is a socket, through which the settings come: passwords among them would be visible on the command
line. When the other end is closed the supervisor is gone, and the runner stops as on SIGTERM.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, cast

from oban_sa.errors import InvalidOption, ObanError
from oban_sa.runner.runner import Runner
from oban_sa.runner.runners import Runners
from oban_sa.service import garbage, imports, logs, service
from oban_sa.service.exit import leave_if_stuck
from oban_sa.service.signals import listening
from oban_sa.settings.options import default_node
from oban_sa.settings.settings import Settings

logger = logging.getLogger("oban_sa.runner")

HEAD: Final = struct.Struct("!I")


def packed(settings: Settings, queues: Iterable[str]) -> bytes:
    """Return settings as a member reads them, with the names of the queues of all members."""
    file = io.BytesIO()
    _Pickler(file).dump((settings, tuple(queues)))
    data = file.getvalue()
    return HEAD.pack(len(data)) + data


class _Pickler(pickle.Pickler):
    """Also pickles the read-only mappings in settings."""

    def reducer_override(self, obj: Any, /) -> Any:
        if isinstance(obj, MappingProxyType):
            frozen = cast("MappingProxyType[str, Any]", obj)
            return _frozen, (dict(frozen),)
        return NotImplemented


def _frozen(mapping: dict[str, object]) -> MappingProxyType[str, Any]:
    return MappingProxyType(mapping)


def main() -> None:
    """Run a runner with the settings that the supervisor sends, until a signal, or until the supervisor is gone."""
    garbage.imported()
    with listening():
        _work()


def _work() -> None:
    # Programs that jobs start must neither read from the supervisor nor keep its line open.
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    with channel.makefile("rb") as file:
        head = file.read(HEAD.size)
        data = file.read(HEAD.unpack(head)[0]) if head else b""
    if not data:
        sys.exit(1)  # the supervisor is gone already
    settings: Settings
    queues: tuple[str, ...]
    settings, queues = pickle.loads(data)  # noqa: S301 - from the process that started this one
    settings = replace(settings, node=settings.node or default_node())
    threading.Thread(target=_stop_with, args=(channel,), name="oban_sa supervisor", daemon=True).start()
    logs.configure(
        settings.log_level,
        settings.log_format,
        verbose=settings.imports,
        node=settings.node,
        schemas=len(settings.schemas) > 1,
    )

    def started(runner: Runner | Runners) -> None:
        told: dict[str, object] = {"started": True, "health": runner.health_address}
        channel.sendall(json.dumps(told).encode() + b"\n")

    try:
        imports.load(settings.imports, origin=settings.origins.get("imports", "--import"))
        service.serve(settings, started=started, also=queues)
    except ObanError as error:
        logger.error("%s", error)
        sys.exit(2 if isinstance(error, InvalidOption) else 1)


def _stop_with(channel: socket.socket) -> None:
    try:
        while channel.recv(1024):
            pass
    except OSError:
        pass
    logger.warning("the supervisor is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        main()
    finally:
        leave_if_stuck(sys.exc_info()[1])
