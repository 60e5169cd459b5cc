"""The bundled recordings: an epoch of each era that runs on a bare machine, and the scripts that made them."""

from pathlib import Path
from typing import Final

RECORDING: Final = Path(__file__).parent / "recording"
RECORDING_2026: Final = Path(__file__).parent / "recording-2026"
