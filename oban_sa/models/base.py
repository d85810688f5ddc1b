"""What all tables have in common: one MetaData, whose schema `public` stands for the schema in use."""

from typing import Any, TypeAlias

from sqlalchemy import DDL, ColumnElement, MetaData, event, text
from sqlalchemy.orm import DeclarativeBase

UTC_NOW = text("timezone('UTC', now())")
"""The database's clock as UTC; the start of the transaction, so that all rows of a transaction agree."""

Expression: TypeAlias = ColumnElement[Any]
"""An SQL expression; of most of them SQLAlchemy's types don't say what they give in Python."""


class Base(DeclarativeBase):
    """The base of the job tables; a user's own tables keep their own base and MetaData."""

    metadata = MetaData(schema="public")
    # What the database sets is read back by the INSERT itself: an expired attribute would query again, and under
    # asyncio that is an error. "auto" asks for no more than that; True would look for what is left, object by object.
    __mapper_args__: Any = {"eager_defaults": "auto"}  # noqa: RUF012 - the base class declares it for instances


def store(model: type[Base], **parameters: float) -> None:
    """Set storage parameters of a table once `create_all` has made it; the migrations set them too.

    Not by `postgresql_with`, which SQLAlchemy 2.0 does not know for tables.
    """
    given = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    ddl = DDL(f"ALTER TABLE %(fullname)s SET ({given})")  # type: ignore[no-untyped-call]
    event.listen(model.__table__, "after_create", ddl)


def schema_map(schema: str | None) -> dict[str | None, str | None]:
    """Return the `schema_translate_map` that finds the tables in `schema`; None means `public`."""
    return {"public": schema or "public"}
