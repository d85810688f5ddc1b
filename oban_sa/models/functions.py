"""Has `metadata.create_all` make the functions that limits call, and `drop_all` drop them."""

from sqlalchemy import Connection, MetaData, event, text

from oban_sa.models.base import Base


def listen() -> None:
    """Follow each `create_all` and `drop_all` of our metadata."""
    event.listen(Base.metadata, "after_create", _make)
    event.listen(Base.metadata, "after_drop", _drop)


def _make(_: MetaData, connection: Connection, **__: object) -> None:
    from oban_sa.catalog.block import block
    from oban_sa.catalog.functions.estimate import COUNT_ESTIMATE
    from oban_sa.catalog.functions.limits import FUNCTIONS

    schema = _schema(connection)
    for function in (COUNT_ESTIMATE, *FUNCTIONS):
        _execute(connection, block(function.is_wanted(schema), *function.make(schema)))


def _drop(_: MetaData, connection: Connection, **__: object) -> None:
    from oban_sa.catalog.block import block
    from oban_sa.catalog.functions.estimate import COUNT_ESTIMATE
    from oban_sa.catalog.functions.limits import FUNCTIONS

    schema = _schema(connection)
    for function in reversed((COUNT_ESTIMATE, *FUNCTIONS)):
        _execute(connection, block(function.is_ours(schema), f"DROP FUNCTION {function.named(schema)}"))


def _schema(connection: object) -> str:
    # A connection of create_mock_engine() is another class, and has no options.
    if not isinstance(connection, Connection):
        return "public"
    translated: dict[str | None, str | None] = connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get("public") or "public"


def _execute(connection: Connection, statement: str) -> None:
    connection.execute(text(statement.replace(":", "\\:")))
