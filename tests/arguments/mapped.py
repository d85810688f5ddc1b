"""An application's tables, with keys and inheritance of many kinds."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import DateTime, ForeignKey, Numeric, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, relationship


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True)}


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="Ada")
    visits: Mapped[int] = mapped_column(default=0)
    orders: Mapped[list[Order]] = relationship(back_populates="user")


class Order(Base):
    """Always loads its user, by an outer join whose rows PostgreSQL would refuse to lock."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))
    user: Mapped[User | None] = relationship(back_populates="orders", lazy="joined")


class Employee(Base):
    __tablename__ = "employees"
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Manager(Employee):
    """Joined table inheritance."""

    __tablename__ = "managers"
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "manager"}

    id: Mapped[int] = mapped_column(ForeignKey(Employee.id), primary_key=True)
    level: Mapped[int] = mapped_column(default=1)


class Animal(Base):
    __tablename__ = "animals"
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Dog(Animal):
    """Single table inheritance."""

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "dog"}


class Pond(Base):
    __tablename__ = "ponds"

    id: Mapped[int] = mapped_column(primary_key=True)


class Lake(Pond):
    """Concrete table inheritance: a table of its own, with numbers of its own."""

    __tablename__ = "lakes"
    __mapper_args__: ClassVar[dict[str, Any]] = {"concrete": True}

    id: Mapped[int] = mapped_column(primary_key=True)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Guid(TypeDecorator[uuid.UUID]):
    """A UUID in a text column, as in the days before databases had them."""

    impl = String(36)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Any) -> uuid.UUID | None:
        return None if value is None else uuid.UUID(value)


class ByUUID(Base):
    __tablename__ = "by_uuid"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class ByGuid(Base):
    __tablename__ = "by_guid"

    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True, default=uuid.uuid4)


class ByMoment(Base):
    __tablename__ = "by_moment"

    at: Mapped[datetime] = mapped_column(primary_key=True, default=lambda: datetime.now(UTC))


class ByDay(Base):
    __tablename__ = "by_day"

    on: Mapped[date] = mapped_column(primary_key=True, default=lambda: date(2026, 3, 1))


class ByText(Base):
    __tablename__ = "by_text"

    code: Mapped[str] = mapped_column(primary_key=True, default="DE")


class ByColor(Base):
    __tablename__ = "by_color"

    color: Mapped[Color] = mapped_column(primary_key=True, default=Color.BLUE)


class ByAmount(Base):
    __tablename__ = "by_amount"

    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2), primary_key=True, default=Decimal("1.50"))


class Seat(Base):
    """Its key has two columns, and neither is called as its attribute is."""

    __tablename__ = "seats"

    row: Mapped[str] = mapped_column("seat_row", primary_key=True)
    number: Mapped[int] = mapped_column("seat_number", primary_key=True)


class Card(MappedAsDataclass, Base):
    """A mapped class that is a dataclass as well."""

    __tablename__ = "cards"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    text: Mapped[str] = mapped_column(default="")
