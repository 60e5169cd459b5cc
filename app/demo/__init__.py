"""The bundled recording: an epoch that runs on a bare machine, and the script that made it."""

from pathlib import Path
from typing import Final

RECORDING: Final = Path(__file__).parent / "recording"
