"""The store's tables and how an older store becomes a newer one: each step once, in order, in one transaction with its number."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from router.journal.kept import StoreFailed

METADATA = sa.MetaData()

SCHEMA = sa.Table("crossfade_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))

REVISIONS = sa.Table(
    "crossfade_revisions",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("restores", sa.BigInteger),
    sa.Column("part_of", sa.BigInteger),
    sa.Column("state", sa.Text, nullable=False),  # JSON of policies.revisions.RoutingState
    sa.Column("file", sa.Text),  # JSON of the state that the file asked for, where a file made the revision
    sa.Column("key", sa.Text, unique=True),  # the idempotency key of the request
    sa.Column("asked", sa.Text),  # a digest of what that request asked for
)

# A step once released is never edited: stores that took it would differ from stores that take the edited one.
_FIRST = (
    "CREATE TABLE crossfade_revisions (number BIGINT PRIMARY KEY, at_s DOUBLE PRECISION NOT NULL, actor TEXT NOT NULL,"
    " reason TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, restores BIGINT, part_of BIGINT, state TEXT NOT NULL,"
    " file TEXT, key TEXT UNIQUE, asked TEXT)",
)
_NEVER = "revisions are never changed"
_APPEND_ONLY = {
    "sqlite": tuple(
        f"CREATE TRIGGER crossfade_no_{what.lower()} BEFORE {what} ON crossfade_revisions BEGIN SELECT RAISE(ABORT, '{_NEVER}'); END"
        for what in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE FUNCTION crossfade_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_NEVER}'; END $$",
        "CREATE TRIGGER crossfade_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON crossfade_revisions"
        " FOR EACH STATEMENT EXECUTE FUNCTION crossfade_append_only()",
    ),
}
STEPS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    dialect: (_FIRST, append_only) for dialect, append_only in _APPEND_ONLY.items()
}
LATEST = len(STEPS["sqlite"])


async def version(connection: AsyncConnection) -> int:
    """The schema that the store has; 0 of an empty one. Raises StoreFailed where it is newer than what is known here."""
    if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(SCHEMA.name)):
        return 0
    had = (await connection.execute(sa.select(sa.func.max(SCHEMA.c.version)))).scalar() or 0
    if had > LATEST:
        raise StoreFailed(
            f"the store has schema {had}, and this version of Crossfade knows up to {LATEST}; use a newer version"
        )
    return int(had)


async def migrate(connection: AsyncConnection) -> None:
    """Bring the store up to `LATEST`, inside the caller's transaction, which must keep others out. Raises StoreFailed as `version` does."""
    had = await version(connection)
    if had == 0:
        await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS crossfade_schema (version INTEGER PRIMARY KEY)")
    steps = STEPS[connection.dialect.name]
    for number in range(had, LATEST):
        for statement in steps[number]:
            await connection.exec_driver_sql(statement)
        await connection.execute(SCHEMA.insert().values(version=number + 1))
