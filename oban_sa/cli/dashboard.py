"""`python -m oban_sa dashboard`: the dashboard, served by itself."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Final

import click

from oban_sa.cli._database import client, database_options, instance_option
from oban_sa.errors import InvalidOption
from oban_sa.service import service
from oban_sa.settings.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from oban_sa.client import Oban

PASSWORD: Final = "OBAN_DASHBOARD_PASSWORD"  # noqa: S105 - the name of a variable
LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")
"""The names under which this machine reaches itself."""

HELP = f"""Serve the dashboard: jobs, queues, nodes, crons, workflows and health, in a browser.

\b
Examples:
  python -m oban_sa dashboard                              # read-only, at http://127.0.0.1:8431
  python -m oban_sa dashboard --actions                    # and anyone on this machine may act
  python -m oban_sa dashboard --embedded                   # of the private PostgreSQL in ./.oban
  {PASSWORD}=... python -m oban_sa dashboard --host 0.0.0.0 --user ops --allowed-host jobs.example.com

Without a user it answers to this machine alone, and changes nothing unless --actions is given. With --user and a
password in {PASSWORD} it asks for both, and its visitor may act unless --read-only is given; other machines
reach it by the names in --allowed-host. Passwords cross the network as they are, so put HTTPS before it.

To have your own users and rights, mount it in your application: docs/dashboard.md.
"""


@click.command("dashboard", help=HELP, short_help="Serve the dashboard.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8431, show_default=True, help="The port.")
@click.option("--actions", is_flag=True, help="Anyone on this machine may act, where no user is given.")
@click.option("--user", metavar="NAME", help=f"Ask for this name, and for the password in {PASSWORD}.")
@click.option("--read-only", "read_only", is_flag=True, help="The user may look, and change nothing.")
@click.option(
    "--allowed-host", "hosts", multiple=True, metavar="NAME", help="A name under which browsers reach it; repeatable."
)
@click.option(
    "--allowed-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="The address in the browser, where a proxy changes the Host header; repeatable.",
)
@click.option("--root-path", default="", metavar="PATH", help="The prefix that a proxy takes away, such as /oban.")
@instance_option
@database_options
def command(
    settings: Settings,
    *,
    host: str,
    port: int,
    actions: bool,
    user: str | None,
    read_only: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    root_path: str,
) -> None:
    """Serve the dashboard until it is told to stop."""
    password = os.environ.get(PASSWORD)
    _check(host, actions=actions, user=user, password=password, read_only=read_only)
    service.require_database(settings)
    acting = not read_only if user is not None else actions

    async def run(url: str) -> None:
        try:
            import uvicorn

            from oban_sa.web import Dashboard as _  # noqa: F401
        except ImportError as error:
            raise InvalidOption(
                f"the dashboard needs {error.name}, which comes with an extra: pip install 'oban-sa[dashboard]'"
            ) from error
        async with client(settings, url) as oban:
            made = app(oban, user=user, password=password, acting=acting, hosts=hosts, origins=origins)
            # Pages that are open keep their connections; they connect again to what is started next.
            config = uvicorn.Config(
                made, host=host, port=port, root_path=root_path, log_level="warning", timeout_graceful_shutdown=1,
                server_header=False, lifespan="off",
            )  # fmt: skip
            server = uvicorn.Server(config)
            shown = f"[{host}]" if ":" in host else host
            try:  # before it says where it is
                listening = socket.create_server(
                    (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
                )
            except OSError as error:
                raise InvalidOption(
                    f"nothing can listen at {shown}:{port} ({error.strerror}); is another dashboard there? Try --port"
                ) from error
            who = f"asks for {user}" if user is not None else "open to this machine"
            may = "its visitor may act" if acting else "read-only"
            at = f"{shown}:{listening.getsockname()[1]}"
            click.echo(f"The dashboard is at http://{at}{root_path or '/'} ({who}, {may}). Ctrl-C stops it.")
            await server.serve(sockets=[listening])

    with service.database(settings) as url:
        service.run(run(url))


def app(
    oban: Oban,
    *,
    user: str | None,
    password: str | None,
    acting: bool,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> ASGIApp:
    """Return the application that the command serves."""
    from oban_sa.web import Access, Dashboard
    from oban_sa.web.login import Login

    access = Access.all(user) if acting else Access.read_only(user)
    allowed = (*LOCAL, *(name.partition(":")[0] if not name.startswith("[") else name for name in hosts))
    dashboard = Dashboard(oban, access=lambda request: access, allowed_hosts=allowed, allowed_origins=origins)
    if user is None or password is None:
        return dashboard
    return Login(dashboard, user=user, password=password)


def _check(host: str, *, actions: bool, user: str | None, password: str | None, read_only: bool) -> None:
    if user is not None and not password:
        raise InvalidOption(f"--user needs a password, in the variable {PASSWORD}")
    if user is not None and (not user.strip() or ":" in user):
        raise InvalidOption(f"--user is a name without a colon, not {user!r}")
    if user is None and password:
        raise InvalidOption(f"{PASSWORD} is set, but no --user; give both, or none")
    if user is not None and actions:
        raise InvalidOption("--actions is for a dashboard without a user; with one its visitor may act already")
    if user is None and read_only:
        raise InvalidOption("--read-only goes with --user; without one the dashboard is read-only already")
    if user is None and not _is_loopback(host):
        raise InvalidOption(
            f"without a user the dashboard listens on this machine alone, and {host} is reached from others; give "
            f"--user NAME, and a password in {PASSWORD}"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
