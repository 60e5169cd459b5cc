"""What every class of settings has in common: where values come from, and what counts as one."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final, get_args

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.secret_files import SecretFiles

_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Concern(BaseSettings):
    """Settings of one concern: each field is an environment variable, or a line of ``.env``, of the same name.

    Empty, or blank, means unset, for every field.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
        # the validators of a class that is only a part of Settings are never needed
        defer_build=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Secrets may also lie in files that ``NAME_FILE`` names, as container platforms hand them out."""
        files = SecretFiles(settings_cls, env_settings, dotenv_settings)
        return (init_settings, files, env_settings, dotenv_settings)

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Blank is unset; a duration may be a number of seconds, or ISO 8601 (``PT5M``)."""
        found: dict[str, Any] = {}
        for name, value in values.items():
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if not isinstance(text, str):
                found[name] = value
            elif text := text.strip():
                if name in cls.model_fields and _CONTROL.search(text):
                    raise ValueError(f"{name.upper()}: holds a control character; write it again without")
                seconds = _is_duration(cls.model_fields.get(name)) and _NUMBER.fullmatch(text)
                found[name] = float(text) if seconds else text
        return found


def _is_duration(field: Any) -> bool:
    return field is not None and timedelta in (field.annotation, *get_args(field.annotation))
