"""`Entry`: what a durable step, a sleep or a wait of a job came to."""

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.types import UTCDateTime


class Entry(Base):
    """One line in the journal of a job, by which its next attempt goes on where this one ended.

    `code` is the name of the function that a step called, or what else the entry is of: `sleep`, `wait_for`, `version`,
    `each`, `progress`. `value` is what came of it, as JSON. `until` is when a sleep or a wait is over. An entry that is
    not `done` is overwritten: a wait without a signal yet, how far an `each` has come. `attempt` has written it.
    """

    __tablename__ = "oban_sa_journal"
    # No foreign key to the job: each job that is pruned, also a plain one, would be looked for here.
    __table_args__ = ({"comment": "oban_sa"},)

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    code: Mapped[str] = mapped_column(Text)
    value: Mapped[object] = mapped_column(JSONB, nullable=True)
    until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    done: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    attempt: Mapped[int] = mapped_column(Integer)
    recorded_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
