"""``make readme``: put the present settings into docs/settings.md and the compose files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from app.cli.settings import markdown_tables
from app.settings import Settings
from app.settings.secret_files import secret_names

_PROJECT: Final = Path(__file__).parents[2]
SETTINGS: Final = _PROJECT / "docs" / "settings.md"
COMPOSE: Final = tuple(sorted((_PROJECT / "docker").glob("compose*.yaml")))

# What compose.yaml says itself, for its containers fit together by it.
FIXED_BY_COMPOSE: Final = frozenset(
    {
        "live",
        "data_dir",
        "wallet_path",
        "api_host",
        "api_port",
        "scoring_api_host",
        "scoring_api_port",
        "flower_address",
        "flower_port",
        "flower_url",
        "metrics_host",
        "metrics_port",
        "psichic_weights",
        "esm_checkpoint",
        "boltz_cache",
    }
)


def handed_on() -> tuple[str, ...]:
    """The variables that compose.yaml hands on from its .env to the containers: all but its own, and the secrets."""
    without = FIXED_BY_COMPOSE | set(secret_names(Settings))
    return tuple(name.upper() for name in Settings.model_fields if name not in without)


def compose_lines() -> str:
    """The same, as lines of compose.yaml."""
    return "\n".join(f"  {name}:" for name in handed_on())


def _put(path: Path, begin: str, end: str, lines: str) -> None:
    text = path.read_text(encoding="utf-8")
    pattern = rf"({re.escape(begin)}\n).*?\n?({re.escape(end)})"
    path.write_text(
        re.sub(pattern, lambda found: found[1] + lines + "\n" + found[2], text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    _put(SETTINGS, "--markdown` -->", "<!-- /settings -->", markdown_tables())
    for file in COMPOSE:
        _put(file, "# settings: made by `python -m app.cli.readme`", "  # /settings", compose_lines())
