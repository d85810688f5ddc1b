"""`Metric`: what became of the jobs of a queue or a worker in a minute or an hour."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Double, Index, Integer, Text, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import Base, store
from oban_sa.models.types import JSONObject, UTCDateTime


class Metric(Base):
    """Counts of a span of `step` seconds that begins `at`, of attempts that ended then.

    Each node adds to rows of its own, so that none waits for another one. The worker `*` stands for all of a queue
    together, and the node `*` for all nodes. `outcomes` counts by the state that followed, `failures` by the class of
    the error, `run` and `wait` by the bin of a duration (see `oban_sa.wire.sketches`). `backlog` jobs of the queue were
    available, of which the `oldest` had waited so many seconds; of each it is the highest that was seen. `flush` is the
    batch that was added last: the same is not added again.
    """

    __tablename__ = "oban_sa_metrics"
    __table_args__ = (
        Index("oban_sa_metrics_step_at_index", "step", "at"),
        {"comment": "oban_sa"},
    )

    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    worker: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime, primary_key=True)
    node: Mapped[str] = mapped_column(Text, primary_key=True)
    outcomes: Mapped[JSONDict] = mapped_column(JSONObject("outcomes"), server_default=text("'{}'::jsonb"))
    failures: Mapped[JSONDict] = mapped_column(JSONObject("failures"), server_default=text("'{}'::jsonb"))
    run: Mapped[JSONDict] = mapped_column(JSONObject("run"), server_default=text("'{}'::jsonb"))
    wait: Mapped[JSONDict] = mapped_column(JSONObject("wait"), server_default=text("'{}'::jsonb"))
    backlog: Mapped[int | None] = mapped_column(Integer)
    oldest: Mapped[float | None] = mapped_column(Double)
    flush: Mapped[UUID | None] = mapped_column(Uuid)


store(Metric, fillfactor=50)
