"""The application's own table, whose rows know the job that works on them."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from oban_sa import Job


class Base(DeclarativeBase):
    pass


class Report(Base):
    """What somebody asked for; `text` is there once it is built."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    pages: Mapped[int]
    text: Mapped[str | None]

    # SET NULL, because jobs are deleted some time after they ended, and the report stays.
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id, ondelete="SET NULL"), index=True)
    job: Mapped[Job | None] = relationship(Job)
