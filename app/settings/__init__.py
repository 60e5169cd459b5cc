"""The process's settings: one class per concern, composed into one :class:`Settings`.

Read once per process with :func:`get_settings`. A wrong value is a sentence that names the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError, model_validator

from app.domain import MOLECULES_NETUID
from app.settings.api import ApiSettings
from app.settings.chain import ChainSettings
from app.settings.cluster import ClusterSettings
from app.settings.competitions import CompetitionSettings
from app.settings.concern import Concern
from app.settings.containers import ContainerSettings
from app.settings.epochs import EpochSettings
from app.settings.secret_files import SettingsError
from app.untrusted import quoted

__all__ = ["CONCERNS", "Settings", "SettingsError", "get_settings"]

CONCERNS: Final[Mapping[str, type[Concern]]] = {
    "chain and hosts": ChainSettings,
    "epochs (subnet 68)": EpochSettings,
    "competitions (subnet 21)": CompetitionSettings,
    "containers (subnet 21)": ContainerSettings,
    "HTTP services": ApiSettings,
    "cluster": ClusterSettings,
}


class Settings(ClusterSettings, ApiSettings, ContainerSettings, CompetitionSettings, EpochSettings, ChainSettings):
    """All settings of a process, with what holds between concerns."""

    @model_validator(mode="after")
    def _epochs_are_molecules(self) -> Settings:
        """The chain's epochs are judged by the rules of the molecules, whatever subnet they are read from."""
        if self.live and self.netuid != MOLECULES_NETUID:
            raise ValueError(
                f"LIVE: only subnet {MOLECULES_NETUID} has epochs of molecules, so it must be 0 where NETUID is "
                f"{self.netuid}"
            )
        return self

    @model_validator(mode="after")
    def _messages_outlast_tasks(self) -> Settings:
        """A message that came back while its task still runs would be worked twice for ever."""
        longest = max(self.examine_limit, self.scoring_limit, self.evaluation_limit) + timedelta(minutes=1)
        if self.visibility_timeout <= longest:
            raise ValueError(
                f"VISIBILITY_TIMEOUT: must be more than {longest.total_seconds():.0f} s, the longest task's limit"
            )
        return self

    @property
    def models_folder(self) -> Path:
        """The folder that is cleaned of models that no commitment names, absolute."""
        return (self.model_dir or self.data_dir / "models").expanduser().resolve()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: naming each variable that is wrong, what it holds and what it should hold.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(item) for item in error.errors())) from None


def _sentence(item: Any) -> str:
    said = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return f"{said}; set it in the environment or in .env"
    if item["type"] == "time_delta_parsing":
        said = "expected a duration: seconds, or ISO 8601 such as PT5M"
    name = str(item["loc"][0]).upper()
    secret = any(word in name for word in ("TOKEN", "KEY", "PASSWORD", "URL", "BACKEND", "AUTH"))
    found = "" if secret or said.startswith("'") else f" (found {quoted(item['input'])})"
    return f"{name}: {said}{found}; set it in the environment or in .env"
