"""The engine and its sessions, for requests and jobs alike."""

from __future__ import annotations

import os

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import scoped_session, sessionmaker

url = make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+psycopg")
engine = create_engine(url)
sessions = sessionmaker(engine, expire_on_commit=False)
db = scoped_session(sessions)
"""The session of the request that this thread answers."""
