"""Weights folders: what is refused, and with which words; the demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_psichic import FOLDER

from gpu.psichic.checkpoint import load_network, open_weights
from gpu.psichic.demo import ensure_demo, make_demo
from gpu.psichic.errors import CheckpointError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for name in ("config.json", "degree.pt", "model.pt"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    return tmp_path


def test_the_golden_checkpoint_loads_strictly(weights: Path) -> None:
    network = load_network(open_weights(weights))
    assert len(network.state_dict()) == 461
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 233_529
    assert not open_weights(weights).untrained


def test_full_size_has_the_published_parameter_count() -> None:
    from gpu.psichic.checkpoint import network_shape
    from gpu.psichic.network import NetworkShape, PsichicNetwork

    small = network_shape(open_weights(FOLDER))
    shape = NetworkShape(200, 1280, 5, (5, 10, 20), small.ligand_degrees, small.protein_degrees)
    with torch.device("meta"):
        network = PsichicNetwork(shape)
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 5_871_321


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(aggregators=["mean", "max"]), "aggregators"),
        (lambda p: p.update(scalers=["identity"]), "scalers"),
        (lambda p: p.update(total_layer=4), "total_layer"),
        (lambda p: p.update(pre_layers=1), "pre_layers"),
        (lambda p: p.update(heads=7), "must divide"),
        (lambda p: p.update(K=[5, 10]), "K ="),
        (lambda p: p.update(hidden_channels="40"), "hidden_channels"),
    ],
)
def test_other_configurations_are_refused(weights: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    config = json.loads((weights / "config.json").read_text())
    change(config["params"])
    (weights / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        open_weights(weights)


def test_other_tasks_are_refused(weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    config["tasks"]["classification_task"] = True
    (weights / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="classification_task"):
        open_weights(weights)


def test_missing_files_name_the_fix(weights: Path) -> None:
    (weights / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt missing.*checkpoints fetch psichic"):
        open_weights(weights)


def test_missing_and_extra_tensors_are_named(weights: Path) -> None:
    state = torch.load(weights / "model.pt", weights_only=True)
    state["surplus.weight"] = state.pop("reg_out.FC_layers.1.weight")
    torch.save(state, weights / "model.pt")
    with pytest.raises(CheckpointError, match=r"lacks reg_out\.FC_layers\.1\.weight and has surplus\.weight too many"):
        load_network(open_weights(weights))


def test_another_width_is_named(weights: Path) -> None:
    config = (weights / "config.json").read_text().replace('"hidden_channels": 40', '"hidden_channels": 200')
    (weights / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match="not of one checkpoint"):
        load_network(open_weights(weights))


@pytest.mark.parametrize("name", ["model.pt", "degree.pt"])
def test_a_cut_file_is_named(weights: Path, name: str) -> None:
    (weights / name).write_bytes((weights / name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=name):
        load_network(open_weights(weights))


def test_degrees_without_a_histogram_are_refused(weights: Path) -> None:
    torch.save({"ligand_deg": torch.tensor([0, 1])}, weights / "degree.pt")
    with pytest.raises(CheckpointError, match="protein_deg"):
        load_network(open_weights(weights))


def test_the_demo_is_the_same_everywhere_and_labelled(tmp_path: Path) -> None:
    one, two = make_demo(tmp_path / "one"), ensure_demo(tmp_path / "two")
    assert open_weights(one.weights).untrained
    a, b = load_network(open_weights(one.weights)).state_dict(), load_network(open_weights(two.weights)).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(a) == 461
    kept = (two.weights / "model.pt").stat().st_mtime_ns
    assert ensure_demo(two.weights) == two
    assert (two.weights / "model.pt").stat().st_mtime_ns == kept


def test_a_half_made_demo_is_made_again(tmp_path: Path) -> None:
    demo = make_demo(tmp_path)
    demo.esm.unlink()
    assert ensure_demo(tmp_path).esm.is_file()
