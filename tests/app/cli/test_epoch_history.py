"""``epoch list``, ``show`` and ``watch``: live epochs and replays, finished and running."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

import app.cli.epoch
from app.cli import cli
from app.domain import ValidatorError
from app.store.database import Store
from app.store.epochs import Epochs, Examination
from tests.app.opened_epoch import opened

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def type_(*words: str) -> Result:
    result = CliRunner().invoke(cli, ["epoch", *words], env={"COLUMNS": "120"})
    if isinstance(result.exception, ValidatorError):
        raise result.exception
    return result


def test_show_finds_replays_and_says_where_else_to_look(store: Store) -> None:
    with pytest.raises(ValidatorError, match=r"neither a live epoch nor a replay of epoch 7 of subnet 68; .*--replays"):
        type_("show", "7")
    opened(store, 7, "replay", publishes=False)
    found = type_("show", "7").output
    assert "A replay, opened" in found
    assert "examined 0 of 3" in found
    opened(store, 7, "68:7", publishes=True)
    assert "A replay" not in type_("show", "7").output
    assert "A replay" in type_("show", "7", "--replay").output
    opened(store, 8, "68:8", publishes=True)
    with pytest.raises(ValidatorError, match="no replay of epoch 8"):
        type_("show", "8", "--replay")


def test_list_as_json_and_what_is_left_out(store: Store) -> None:
    opened(store, 7, "replay", publishes=False)
    assert "--replays lists replays too" in type_("list").output
    (found,) = json.loads(type_("list", "--replays", "--json").output)["epochs"]
    assert (found["epoch"], found["run"], found["stage"], found["weights"]) == (7, "replay", "examining", None)
    assert json.loads(type_("list", "--json").output) == {"epochs": []}


def test_list_names_the_winners_of_either_era(store: Store) -> None:
    old, new = opened(store, 7, "68:7", publishes=True), opened(store, 8, "68:8", publishes=True)
    with store.writing() as session:
        epochs = Epochs(session)
        for epoch_id in (old, new):
            epochs.plan(epoch_id, {})
        epochs.close(old, (), {"psichic": 1, "boltz": None}, None, ())
        epochs.close(new, (), {"molecule": 2, "nanobody": None}, None, (), {"nanobody": "no BoltzGen"})
    found = {epoch["epoch"]: epoch for epoch in json.loads(type_("list", "--json").output)["epochs"]}
    assert found[7]["winners"] == {"psichic": 1, "boltz": None}
    assert (found[8]["winners"], found[8]["unjudged"]) == (
        {"molecule": 2, "nanobody": None},
        {"nanobody": "no BoltzGen"},
    )
    table = " ".join(type_("list").output.split())
    assert "psichic: UID 1" in table
    assert "molecule: UID 2" in table


def test_watch_follows_the_running_epoch_to_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidatorError, match="no epoch is running"):
        type_("watch")
    epoch_id = opened(store, 7, "68:7", publishes=True)

    def examine(uid: int) -> Callable[[Epochs], object]:
        return lambda epochs: epochs.record_examination(epoch_id, uid, Examination(""))

    happens = iter([examine(0), examine(1), examine(2), lambda epochs: epochs.fail(epoch_id, "no target was found")])

    def sleep(_: float) -> None:
        with store.writing() as session:
            next(happens)(Epochs(session))

    monkeypatch.setattr(app.cli.epoch.time, "sleep", sleep)
    watched = type_("watch")
    assert watched.exit_code == 1
    assert "Epoch 7 (live)" in watched.output
    assert "3/3" in watched.output
    assert "rank and weigh" not in watched.output, "it failed before that"
    assert "failed: no target was found" in watched.output
    # one that has ended is shown as it ended
    assert type_("watch", "7").exit_code == 1
