"""The engine and its sessions, for requests and jobs alike: those of Advanced Alchemy's plugin."""

from __future__ import annotations

import os

from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig
from sqlalchemy import make_url

url = make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+asyncpg")
alchemy = SQLAlchemyAsyncConfig(
    connection_string=url.render_as_string(hide_password=False),
    session_config=AsyncSessionConfig(expire_on_commit=False),
)
engine = alchemy.get_engine()
