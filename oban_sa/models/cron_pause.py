"""`CronPause`: a crontab entry that makes no jobs."""

from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import UTCDateTime


class CronPause(Base):
    """While there is a row, the entry of that `name` in `oban_sa_crons` is paused, whether it is stored there or not.

    It is a table of its own, since pausing an entry is a smaller right than changing what it runs. A pause of an entry
    that has left the crontab is deleted by a node that has led without it for an hour.
    """

    __tablename__ = "oban_sa_cron_pauses"
    __table_args__ = ({"comment": "oban_sa"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    paused_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
