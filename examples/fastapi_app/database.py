"""The engine and its sessions, for requests and jobs alike."""

from __future__ import annotations

import os

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

url = make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+asyncpg")
engine = create_async_engine(url, pool_size=10)
sessions = async_sessionmaker(engine, expire_on_commit=False)
