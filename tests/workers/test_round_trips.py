"""An epoch's requests to the chain are counted: public endpoints limit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.round_trips import MOST, counted


@pytest.mark.parametrize("commit_reveal", [False, True])
def test_an_epoch_with_256_commitments_asks_the_chain_forty_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit_reveal: bool
) -> None:
    found = counted(tmp_path, monkeypatch, commit_reveal=commit_reveal)
    assert sum(found.values()) <= MOST, found
