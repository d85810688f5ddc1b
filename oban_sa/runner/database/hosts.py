"""URLs that name several hosts, or a socket: `//h1:5432,h2/db`, `?host=h1:5432&host=h2`, `//%2Ftmp/db`.

SQLAlchemy reads one host and one port there. asyncpg would give all hosts together the timeout of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import asyncpg

from oban_sa.describe.redaction import safe
from oban_sa.errors import InvalidOption

_ADDRESS: Final = re.compile(r"([\w.+-]+://)((?:[^@]*@)?)([^/?@]*)((?:/[^?]*)?)(?:\?(.*))?", re.DOTALL)
_ONE: Final = re.compile(r"(/[^:]*|\[[^\]]*\]|[^:]*)(?::(.*))?")
_NEXT: Final = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)

Hosts = list[tuple[str, int]]


def without_hosts(url: str) -> tuple[str, Hosts]:
    """Return the URL without its hosts, and the hosts with their ports; a URL that names one host, as it is and [].

    A port that is left out is 5432. Raises InvalidOption for a port that is no number, or for too few or many ports.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return url, []
    scheme, user, named_there, database, query = found[1], found[2], found[3], found[4], found[5] or ""
    parameters = parse_qsl(query, keep_blank_values=True)
    named = [part for key, value in parameters if key == "host" for part in value.split(",")]
    ports = [part for key, value in parameters if key == "port" for part in value.split(",")]
    if not named and ("," in named_there or "%2f" in named_there.lower()):
        named = [unquote(part) for part in named_there.split(",")]
    if not named:
        return url, []
    rest = urlencode([each for each in parameters if each[0] not in ("host", "port")])
    return f"{scheme}{user}{database}{rest and '?' + rest}", _paired(url, named, ports)


async def connect(hosts: Hosts, **arguments: Any) -> asyncpg.Connection:
    """Connect to the first of these hosts that answers, and is of the kind that `target_session_attrs` asks for.

    Each has the whole `timeout`. Raises the error of the last one.
    """
    kinds: Sequence[dict[str, Any]] = [{}]
    if "target_session_attrs=prefer-standby" in arguments.get("dsn", ""):
        kinds = [{"target_session_attrs": "standby"}, {"target_session_attrs": "any"}]
    failure: Exception = asyncpg.InterfaceError("there is no host to connect to")
    for kind in kinds:
        for host, port in hosts:
            try:
                given: Any = {**arguments, **kind, "host": host, "port": port}
                return await asyncpg.connect(**given)
            except _NEXT as error:
                failure = error
    raise failure


def _paired(url: str, named: list[str], ports: list[str]) -> Hosts:
    if len(ports) not in (0, 1, len(named)):
        raise InvalidOption(f"{safe(url)!r} names {len(named)} hosts and {len(ports)} ports; write host:port for each")
    pairs: Hosts = []
    for number, each in enumerate(named):
        one = _ONE.fullmatch(each)
        bare = one is None or (each.count(":") > 1 and not each.startswith(("[", "/")))  # an IPv6 address, as it is
        host, port = (each, None) if one is None or bare else (one[1].strip("[]"), one[2])
        port = port or (ports[number if len(ports) > 1 else 0] if ports else "") or "5432"
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidOption(
                f"{safe(url)!r} names a port that is no number; write for example "
                "postgresql://user:password@one:5432,two:5432/name"
            )
        pairs.append((host or "localhost", int(port)))
    return pairs
