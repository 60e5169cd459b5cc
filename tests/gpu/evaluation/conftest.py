"""Nothing here reaches for the network; the tests' own servers and data are importable."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]


@pytest.fixture(autouse=True, scope="session")
def offline_hub() -> Iterator[None]:
    """``datasets`` and ``transformers`` read this once, when they are imported."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    if before is None:
        del os.environ["HF_HUB_OFFLINE"]
    else:
        os.environ["HF_HUB_OFFLINE"] = before


@pytest.fixture(scope="session")
def punkt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for NLTK_DATA."""
    from tiny_voicebench import write_punkt

    return write_punkt(tmp_path_factory.mktemp("nltk_data"))


@pytest.fixture(scope="session")
def tiny_voicebench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four sets of the competition and two more, six questions each."""
    from tiny_voicebench import SETS, write_voicebench

    return write_voicebench(tmp_path_factory.mktemp("voicebench"), SETS)
