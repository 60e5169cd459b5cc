"""Alembic's migrations, applied on start (:mod:`app.store.schema`)."""
