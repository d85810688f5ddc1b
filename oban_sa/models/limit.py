"""`Rate` and `Lease`: what the limits of queues, and those outside of jobs, have to remember."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Double, Identity, Index, Integer, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import Base, store
from oban_sa.models.types import UTCDateTime


class Rate(Base):
    """How many jobs were started lately, by the name of a limit and a key, which is empty where it has none.

    `counts` are starts in slices of the period, the newest last; `width` is the length of a slice in seconds, and
    `newest` the number of the last one since 1970. A bucket has none of these. From `full_at` on the row says nothing
    any more: all that was spent is there again.
    """

    __tablename__ = "oban_sa_rates"
    __table_args__ = ({"comment": "oban_sa"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True, server_default=text("''"))
    width: Mapped[float] = mapped_column(Double, server_default=text("0"))
    newest: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    counts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    full_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


store(Rate, fillfactor=50)


class Lease(Base):
    """A slot of a limit outside of jobs, held until it is given back or its holder is silent past `expires_at`.

    Where `taken_at` is NULL it is the place of one that waits for a slot; those with a lower id come first.
    """

    __tablename__ = "oban_sa_leases"
    __table_args__ = (Index("oban_sa_leases_name_key_index", "name", "key"), {"comment": "oban_sa"})

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text, server_default=text("''"))
    holder: Mapped[UUID] = mapped_column(Uuid)
    taken_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
