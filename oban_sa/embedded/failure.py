"""What is raised where no private PostgreSQL can be had."""

from __future__ import annotations

from oban_sa.errors import ObanError


class EmbeddedError(ObanError):
    """The embedded PostgreSQL can't be started or reached."""
