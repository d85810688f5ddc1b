"""`Leader` and `Peer`: who does what must be done once, among nodes of this family's Python and Elixir halves."""

from datetime import datetime

from sqlalchemy import Text, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa.models.base import Base
from oban_sa.models.types import UTCDateTime


class Leader(Base):
    """The lease of the leading node of an instance; unlogged, for a lease is worth nothing after a crash."""

    __tablename__ = "oban_leaders"
    __table_args__ = ({"prefixes": ["UNLOGGED"], "comment": "oban_sa"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True, server_default=text("'Oban'"))
    node: Mapped[str] = mapped_column(Text)
    elected_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Peer(Base):
    """The same among Elixir nodes, which alone write it; it exists so that they can join."""

    __tablename__ = "oban_peers"
    __table_args__ = ({"prefixes": ["UNLOGGED"], "comment": "oban_sa"},)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    node: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
