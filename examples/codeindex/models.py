"""The application's own tables, which know nothing of jobs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class SourceFile(Base):
    """A file to index; `indexed_at` is empty until a job has read it, `refused` says why it couldn't be parsed."""

    __tablename__ = "codeindex_files"
    __table_args__ = (UniqueConstraint("root", "path"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    root: Mapped[str]
    path: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    modified: Mapped[int] = mapped_column(BigInteger)
    """Nanoseconds, as the file system says; with `size` it tells whether a file has changed."""
    indexed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    refused: Mapped[str | None]


class Symbol(Base):
    """A function or a class, and where it begins."""

    __tablename__ = "codeindex_symbols"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    file_id: Mapped[int] = mapped_column(ForeignKey(SourceFile.id, ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    name: Mapped[str]
    line: Mapped[int]
