"""`SentSignal`: a signal to a job that nothing has taken yet."""

from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import UTCDateTime


class SentSignal(Base):
    """A signal on its way to a job; `wait_for` of its name takes the one with the lowest id, and deletes the row."""

    __tablename__ = "oban_sa_signals"
    __table_args__ = (
        Index("oban_sa_signals_job_id_name_id_index", "job_id", "name", "id"),
        {"comment": "oban_sa"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(Text)
    payload: Mapped[object] = mapped_column(JSONB, nullable=True)
    sent_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
