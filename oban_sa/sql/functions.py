"""Calls of the functions that our migrations make in the schema of the tables."""

from __future__ import annotations

from typing import Generic, TypeVar

from sqlalchemy import MetaData, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from oban_sa.models.base import Expression

T = TypeVar("T")


class call(FunctionElement[T], Generic[T]):  # noqa: N801 - used like a function
    """Call a function of the schema in use, which `schema_translate_map` replaces as it does that of a table."""

    inherit_cache = False
    name = "call"

    def __init__(self, name: str, type_: TypeEngine[T], *args: Expression) -> None:
        super().__init__(*args)
        self.type = type_
        # Only names of tables are translated; the function is called by that of a table that is not there.
        self.named = Table(name, MetaData(), schema="public")


@compiles(call)
def _compiled(element: call[object], compiler: SQLCompiler, **options: object) -> str:
    return f"{compiler.preparer.format_table(element.named)}{compiler.process(element.clause_expr, **options)}"
