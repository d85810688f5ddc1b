"""`Queue`: what was decided about a queue at run time and outlives the nodes."""

from datetime import datetime

from sqlalchemy import Text, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import JSONObject, UTCDateTime


class Queue(Base):
    """What was decided about the queue `name`, for whole instances and for single nodes of them.

    `meta` holds it under `<instance>` for all nodes and under `<instance>.<node>` for one:
    `{"Oban": {"paused": true, "paused_at": "2026-01-02T03:04:05.6"}, "Oban.web.1": {"limit": 3, "limit_at": "..."}}`.
    The name `*` stands for every queue; of all that concerns a queue on a node, the latest decision holds. A decision
    changes the object under one of these keys and leaves the others as they are, so that nodes and instances never
    overwrite each other.
    """

    __tablename__ = "oban_sa_queues"
    # Behind the name stands the version of all tables, kept here by the migrations.
    __table_args__ = ({"comment": "oban_sa 6"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    meta: Mapped[JSONDict] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
