"""The logs of the command line."""

from __future__ import annotations


def set_up_logs() -> None:
    """A user of the command line sees warnings; more where LOG_LEVEL says so."""
    from app.observability.logs import configure
    from app.settings import Settings, SettingsError, get_settings

    try:
        settings = get_settings()
    except SettingsError:
        # the verb says it, if it needs settings at all
        settings = Settings.model_construct()
    configure("cli", level=None if "log_level" in settings.model_fields_set else "WARNING", settings=settings)
