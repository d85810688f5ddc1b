"""`Queue`: what was decided about a queue at run time and outlives the nodes."""

from datetime import datetime
from typing import Any

from sqlalchemy import Text, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import JSONObject, UTCDateTime


class Queue(Base):
    """A queue's settings, per instance and node.

    `name` is the queue's name, the key of the row; `meta` holds what holds for all nodes under `"<instance>"`, and for
    one node under `"<instance>.<node>"`: `{"Oban": {"paused": true}, "Oban.web.1": {"limit": 3}}`. Each change is one
    `meta || ...` of one key, so that nodes never overwrite each other.
    """

    __tablename__ = "oban_queues"
    # Behind the name stands the version of all tables, kept here by the migrations.
    __table_args__ = ({"comment": "oban_sa 1"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    meta: Mapped[dict[str, Any]] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
