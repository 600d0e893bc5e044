"""Alembic's environment; `schema.prepare` hands it the connection."""

from alembic import context
from stratmaster_router.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
