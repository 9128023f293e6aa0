"""The declarative base: names of constraints, types of columns, times in UTC."""

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import JSON, BigInteger, ColumnElement, DateTime, Enum, Integer, MetaData, Table, Uuid, literal_column
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, registry
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC on every database; SQLite alone would give back a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            if value is not None:
                raise ValueError("a time without a zone cannot be stored")
            return None
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts rows by itself only for INTEGER PRIMARY KEY.
BigId = BigInteger().with_variant(Integer(), "sqlite")


def words(enum: type[StrEnum]) -> Enum:
    """A column that stores the enum's own words: readable rows, no native type to migrate."""
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda members: [str(member) for member in members],
    )


def holds(column: Any) -> ColumnElement[bool]:
    """A truth value as a condition, as the partial indexes spell it.

    SQLAlchemy says `= 1` on SQLite, and that is answered by none of them but by reading the whole table.
    """
    # Of a type that SQLAlchemy compares with nothing.
    return cast(ColumnElement[bool], literal_column(f"{column.table.name}.{column.name}", Integer))


class Base(DeclarativeBase):
    """Every model of ours."""

    registry = registry(
        metadata=MetaData(naming_convention=NAMING),
        type_annotation_map={
            datetime: UtcDateTime(),
            uuid.UUID: Uuid(),
            dict[str, Any]: JSON(none_as_null=True),
            list[Any]: JSON(none_as_null=True),
        },
    )


def table(model: type[Base]) -> Table:
    """The table behind a model, for prebuilt Core statements."""
    return cast(Table, model.__table__)
