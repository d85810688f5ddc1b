"""`Producer`: a queue that a living node works on."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Text, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import JSONObject, UTCDateTime


class Producer(Base):
    """One queue of one running node; `updated_at` is its heartbeat, by the database's clock.

    The table is logged, unlike the family's: after a crash of the database or on a promoted standby it still says
    who was running what, which is exactly when orphans must be told from the living.
    """

    __tablename__ = "oban_producers"
    __table_args__ = ({"comment": "oban_sa"},)

    uuid: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text, server_default=text("'Oban'"))
    node: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(Text)
    meta: Mapped[JSONDict] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
