"""`Cron`: a schedule and its last tick."""

from datetime import datetime

from sqlalchemy import Text, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import JSONObject, UTCDateTime


class Cron(Base):
    """One entry of a crontab; `last_at` is the moment of its last tick, not the time at which a job was made for it.

    A tick happens once in a cluster because of this row, whichever node leads: the statement that inserts the job moves
    `last_at` forward from exactly the moment that was read there. Of several nodes that try, one matches; the others
    wait for its commit and then match no more.
    """

    __tablename__ = "oban_sa_crons"
    __table_args__ = ({"comment": "oban_sa"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    expression: Mapped[str] = mapped_column(Text)
    worker: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str] = mapped_column(Text, server_default=text("'Etc/UTC'"))
    opts: Mapped[JSONDict] = mapped_column(JSONObject("opts"), server_default=text("'{}'::jsonb"))
    last_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    inserted_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
