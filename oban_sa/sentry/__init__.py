"""Errors and traces of jobs in Sentry.

    import sentry_sdk
    from oban_sa.sentry import ObanIntegration

    sentry_sdk.init(dsn=..., integrations=[ObanIntegration()])

Needs `pip install 'oban-sa[sentry]'`.
"""

from __future__ import annotations

from oban_sa.errors import InvalidOption

try:
    from oban_sa.sentry.integration import ObanIntegration
except ImportError as missing:
    if (missing.name or "").partition(".")[0] != "sentry_sdk":
        raise
    raise InvalidOption("oban_sa.sentry needs Sentry's SDK; install it: pip install 'oban-sa[sentry]'") from missing

__all__ = ["ObanIntegration"]
