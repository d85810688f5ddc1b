"""`Unique`: which job holds a unique key."""

from uuid import UUID

from sqlalchemy import BigInteger, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import Base, store


class Unique(Base):
    """A pointer from a key to the newest job that was enqueued with it.

    Whether that job still stands in the way of another is decided by its own row, in the statement that asks: the
    pointer says nothing of its state, and no later change of a job touches it. A claim reads the pointer, and moves it
    only if it is still what was read: of two that saw the same one wins. What they compare is `version`, or `job_id`
    where that is NULL. A new job has an id that no pointer had before; a job that is retried has one that was read by
    others, when it still stood in nobody's way, and so gets a `version`: a negative number of its transaction's.
    """

    __tablename__ = "oban_sa_uniques"
    __table_args__ = ({"comment": "oban_sa"},)

    key: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    job_id: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int | None] = mapped_column(BigInteger)


store(Unique, fillfactor=70)
