"""`Flow`: a workflow, a group of its members, or a batch; and `Ending`: a note that something has to be booked."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Identity, Index, Integer, SmallInteger, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import UTC_NOW, Base, store
from oban_sa.models.types import JSONObject, UTCDateTime


class Flow(Base):
    """Many jobs as one: how many there are, how many have ended, and how.

    `path` are the ids of the flows around it, the root first, and its own last. The counters include the members of the
    flows inside, and only a settler changes them (`oban_sa.sql.settle`). A flow is over when none is `unfinished`.
    `attempted` are the members that ran at least once, where a callback of a batch waits for that. `callbacks` are the
    jobs that a batch makes, by event, and `fired` the events of which the job was made. What joins it after
    `cancelled_at` is cancelled.
    """

    __tablename__ = "oban_sa_flows"
    __table_args__ = (
        Index(
            "oban_sa_flows_unique_name_index",
            "unique_name",
            unique=True,
            postgresql_where=text("unique_name IS NOT NULL AND completed_at IS NULL"),
        ),
        Index("oban_sa_flows_root_id_index", "root_id", postgresql_where=text("id <> root_id")),
        Index(
            "oban_sa_flows_completed_at_index",
            "completed_at",
            postgresql_where=text("id = root_id AND completed_at IS NOT NULL"),
        ),
        Index("oban_sa_flows_open_index", "id", postgresql_where=text("completed_at IS NULL")),
        {"comment": "oban_sa"},
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    root_id: Mapped[UUID] = mapped_column(Uuid)
    path: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    kind: Mapped[str] = mapped_column(Text)
    lane: Mapped[int] = mapped_column(SmallInteger)
    name: Mapped[str | None] = mapped_column(Text)
    unique_name: Mapped[str | None] = mapped_column(Text)
    total: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    unfinished: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    completed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    cancelled: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    discarded: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempted: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    context: Mapped[JSONDict | None] = mapped_column(JSONObject("context"))
    callbacks: Mapped[JSONDict | None] = mapped_column(JSONObject("callbacks"))
    fired: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    meta: Mapped[JSONDict] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
    inserted_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
    started_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    cancelled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    completed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


store(Flow, fillfactor=50)


class Ending(Base):
    """A note: look at this job, or at this flow, and book what has become of it.

    It says nothing itself, so it does no harm twice, late or in another order. `recount` asks to count a member's
    dependencies anew, as after a retry, which has callbacks run again where it names a flow too; of a flow alone it
    says that it was cancelled.
    """

    __tablename__ = "oban_sa_endings"
    __table_args__ = ({"comment": "oban_sa"},)

    lane: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    flow_id: Mapped[UUID | None] = mapped_column(Uuid)
    recount: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))


store(Ending, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=1000)
