"""The dashboard: an ASGI application that shows jobs, queues and nodes, and lets those change them who may.

    from oban_sa.web import Access, Dashboard

    app.mount("/oban", Dashboard(oban, access=rights))

It needs the extra: `pip install 'oban-sa[web]'`.
"""

from __future__ import annotations

try:
    import jinja2 as _jinja2
    import starlette as _starlette
except ImportError as error:
    raise ImportError(
        f"the dashboard needs {error.name}, which comes with an extra: pip install 'oban-sa[web]'", name=error.name
    ) from error

from oban_sa.web.access import Access
from oban_sa.web.app import Dashboard
from oban_sa.web.redact import Shown, masked

__all__ = ["Access", "Dashboard", "Shown", "masked"]

del _jinja2, _starlette
