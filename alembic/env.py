"""Run by Alembic within `relay.store.schema.migrations.upgrade`, or by its own command line to write a new migration,
which needs a configuration (see docs/how-it-works/developing.md)."""

from alembic import context
from sqlmodel import SQLModel

import relay.store.schema.tables  # noqa: F401 - fills the metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
context.run_migrations()
