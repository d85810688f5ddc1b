"""Workers of tenants: each writes into the tables of the tenant whose job it does."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from oban_sa import enqueue, job


class Base(DeclarativeBase):
    pass


class Note(Base):
    """A model that names no schema, as most do."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]


class Bill(Base):
    """A model whose schema stands for the tenant's."""

    __tablename__ = "bills"
    __table_args__ = {"schema": "tenant"}

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]


@job()
async def note(session: AsyncSession, what: str) -> None:
    session.add_all([Note(what=what), Bill(what=what)])
    await session.flush()
    if not what.startswith("after "):
        enqueue(session, note_later.new("after " + what))


@job()
def note_later(session: Session, what: str) -> None:
    session.add_all([Note(what=what), Bill(what=what)])


TABLES = text(
    "CREATE TABLE notes (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, what text);"
    "CREATE TABLE bills (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, what text)"
)
