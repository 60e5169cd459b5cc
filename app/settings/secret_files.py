"""Secrets in files: ``GITHUB_TOKEN_FILE=/run/secrets/github_token`` in place of ``GITHUB_TOKEN``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.domain import ValidatorError


class SettingsError(ValidatorError):
    """An environment variable (or a line of .env) has a value that cannot be used."""


def secret_names(settings: type[BaseSettings]) -> tuple[str, ...]:
    """The fields that hold secrets, in the class's order: those that may come from a file."""
    return tuple(name for name, field in settings.model_fields.items() if _is_secret(field))


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


class SecretFiles(PydanticBaseSettingsSource):
    """Reads each secret field whose ``NAME_FILE`` is set in one of ``sources`` (the environment, .env).

    An empty file is a secret that is not set.

    Raises:
        SettingsError: when called; the file cannot be read, holds more than one line, or the secret is set twice.
    """

    def __init__(self, settings: type[BaseSettings], *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(settings)
        self._sources = sources

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret's text (None where no file is named), the field's name, and that it is no JSON."""
        path = self._found(f"{field_name}_file")
        if not path:
            return None, field_name, False
        name = field_name.upper()
        if self._found(field_name):
            raise SettingsError(f"{name} and {name}_FILE are both set; unset one of them")
        return _read(f"{name}_FILE", Path(path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Field → secret, of those that a file is named for."""
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in secret_names(self.settings_cls)}
        return {name: value for name, value in found.items() if value is not None}

    def _found(self, key: str) -> str:
        for source in self._sources:
            variables: Mapping[str, str | None] = getattr(source, "env_vars", {})
            if variables.get(key):
                return str(variables[key]).strip()
        return ""


def _read(variable: str, path: Path) -> str | None:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{variable}: {path} does not exist; make the file, or unset {variable}") from None
    except IsADirectoryError:
        raise SettingsError(
            f"{variable}: {path} is a folder; Docker makes one where the file was missing: remove it, make the file, "
            "and start the container again"
        ) from None
    except PermissionError:
        raise SettingsError(
            f"{variable}: user {os.geteuid()} (group {os.getegid()}) may not read {path}; "
            f"let it: chgrp {os.getegid()} and chmod 440 on the file"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {path} holds no UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from None
    lines = text.strip().splitlines()
    if not lines:
        return None
    if len(lines) > 1:
        raise SettingsError(f"{variable}: {path} must hold the secret on one line, and holds {len(lines)}")
    return lines[0].strip()
