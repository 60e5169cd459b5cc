"""Nothing here reaches for the network; the tests' own servers and data are importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]


@pytest.fixture(autouse=True)
def offline_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries read the variable once, when they are imported, and that may have been for other tests."""
    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


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
