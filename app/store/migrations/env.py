"""Alembic's entry: runs the migrations on the connection that app.store.schema hands over."""

from alembic import context

from app.store.tables import (  # noqa: F401  (so that the metadata knows every table)
    competitions,
    deliveries,
    epochs,
    evaluations,
    facts,
    services,
    weights,
    work,
)
from app.store.tables.base import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
