"""`Member`: a job in a flow; `Edge` and `Gate`: what it waits for."""

from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Index, Integer, SmallInteger, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import Base, store


class Member(Base):
    """A job that belongs to a flow.

    `waiting` is the number of its dependencies that are not met yet. NULL: it joined later, and nothing was counted.
    `doomed` says which dependency failed, from then on until the job could be cancelled. `settled` is how the job
    ended, once that was booked: c(ompleted), x (cancelled), d(iscarded) or g(one). `attempted` says whether it was
    counted as one that ran, where a callback waits for that. `holds` are the grafts that it may fill, which are not
    over before it has ended. `retried` is how often it was counted anew after a retry; its job's meta says how often it
    was retried.
    """

    __tablename__ = "oban_sa_members"
    __table_args__ = (
        UniqueConstraint("flow_id", "name", name="oban_sa_members_flow_id_name_key"),
        {"comment": "oban_sa"},
    )

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    flow_id: Mapped[UUID] = mapped_column(Uuid)
    name: Mapped[str] = mapped_column(Text)
    waiting: Mapped[int | None] = mapped_column(Integer)
    doomed: Mapped[str | None] = mapped_column(Text)
    settled: Mapped[str | None] = mapped_column(Text)
    attempted: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    holds: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    retried: Mapped[int] = mapped_column(Integer, server_default=text("0"))


# No index is of a column that changes: then the free space keeps the new versions of rows on their page.
store(Member, fillfactor=50)


class Edge(Base):
    """A member, `child_id`, waits for another one. `forgives` are bits: 1 cancelled, 2 discarded, 4 deleted."""

    __tablename__ = "oban_sa_edges"
    __table_args__ = (Index("oban_sa_edges_child_id_index", "child_id"), {"comment": "oban_sa"})

    parent_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    child_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    forgives: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))


class Gate(Base):
    """A member, `child_id`, waits for a whole flow, such as a group; `forgives` as of an edge."""

    __tablename__ = "oban_sa_gates"
    __table_args__ = (Index("oban_sa_gates_child_id_index", "child_id"), {"comment": "oban_sa"})

    flow_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    child_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    forgives: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
