"""A small PSICHIC checkpoint for the embedded default: right in form, untrained, and labelled so.

Made from a seed, so that every machine has the same one. Its scores mean nothing; they exercise everything else.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gpu.psichic.checkpoint import FILES, UNTRAINED_LABEL

if TYPE_CHECKING:
    import torch

SEED: Final = 20240617
LANGUAGE_MODEL: Final = "esm2.pt"

_HIDDEN, _WIDTH, _LAYERS, _HEADS = 40, 64, 3, 4
# In-degrees as graphs of drug-like molecules and of contact maps have them, in rough proportion.
_LIGAND_DEGREES: Final = (0, 600, 1100, 700, 40, 0, 0)
_PROTEIN_DEGREES: Final = (0, 0, 0, 4, 8, 300, 400, 300, 200, 120, 80, 40, 20, 10, 5, 2)


@dataclass(frozen=True, slots=True)
class DemoCheckpoint:
    """Where the demo lies: its weights folder, and its ESM-2 inside."""

    weights: Path
    esm: Path


def ensure_demo(folder: Path) -> DemoCheckpoint:
    """The demo checkpoint in ``folder``, made where it is not there yet."""
    demo = DemoCheckpoint(folder, folder / LANGUAGE_MODEL)
    if not all((folder / name).is_file() for name in (*FILES, LANGUAGE_MODEL)):
        make_demo(folder)
    return demo


def make_demo(folder: Path) -> DemoCheckpoint:
    """Write the demo checkpoint (0.3 million parameters) and a matching three-layer ESM-2 into ``folder``."""
    import torch

    from gpu.psichic.checkpoint import degree_averages
    from gpu.psichic.network import NetworkShape, PsichicNetwork

    degrees = {
        "ligand_deg": torch.tensor(_LIGAND_DEGREES, dtype=torch.int64),
        "protein_deg": torch.tensor(_PROTEIN_DEGREES, dtype=torch.int64),
    }
    shape = NetworkShape(
        hidden=_HIDDEN,
        evolutionary=_WIDTH,
        heads=5,
        clusters=(5, 10, 20),
        ligand_degrees=degree_averages(degrees["ligand_deg"]),
        protein_degrees=degree_averages(degrees["protein_deg"]),
    )
    generator = torch.Generator().manual_seed(SEED)
    with torch.device("meta"):
        names = {name: tuple(tensor.shape) for name, tensor in PsichicNetwork(shape).state_dict().items()}
    state = {name: _parameter(name, size, generator) for name, size in names.items()}
    config = {
        "label": f"{UNTRAINED_LABEL}: random parameters, scores without meaning",
        "params": {
            "mol_in_channels": 43,
            "prot_in_channels": 33,
            "prot_evo_channels": _WIDTH,
            "hidden_channels": _HIDDEN,
            "aggregators": ["mean", "min", "max", "std"],
            "scalers": ["identity", "amplification", "linear"],
            "pre_layers": 2,
            "post_layers": 1,
            "total_layer": 3,
            "K": [5, 10, 20],
            "heads": 5,
            "dropout": 0,
            "dropout_attn_score": 0.2,
        },
        "tasks": {"regression_task": True, "classification_task": None, "mclassification_task": None},
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Written beside and moved into place one by one: two workers that start together write the same bytes.
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        draft = Path(beside)
        torch.save(_language_model(generator), draft / LANGUAGE_MODEL)
        torch.save(degrees, draft / "degree.pt")
        torch.save(state, draft / "model.pt")
        (draft / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for name in (LANGUAGE_MODEL, *FILES):
            (draft / name).replace(folder / name)
    return DemoCheckpoint(folder, folder / LANGUAGE_MODEL)


def _parameter(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """One random parameter: norms near identity, Linears scaled to keep variance."""
    import torch

    noise: torch.Tensor = torch.randn(size, generator=generator)
    if len(size) == 1:
        is_scale = name.endswith(("weight", "mean_scale"))
        return noise.mul(0.1).add(1.0 if is_scale else 0.0)
    return noise.div(size[1] ** 0.5)


def _language_model(generator: torch.Generator) -> dict[str, object]:
    """A three-layer ESM-2 in the plain form, whose contact head finds a few contacts per residue."""
    import warnings

    import torch
    from esm.model.esm2 import ESM2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ESM2(num_layers=_LAYERS, embed_dim=_WIDTH, attention_heads=_HEADS, token_dropout=True)
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("inv_freq"):
            state[name] = tensor.clone()
        elif name == "contact_head.regression.bias":
            state[name] = torch.full_like(tensor, -2.2)
        elif name == "contact_head.regression.weight":
            state[name] = 40 * torch.randn(tensor.shape, generator=generator)
        else:
            state[name] = _parameter(name, tuple(tensor.shape), generator)
    state["lm_head.weight"] = state["embed_tokens.weight"]
    hparams = {
        "num_layers": _LAYERS,
        "embed_dim": _WIDTH,
        "attention_heads": _HEADS,
        "token_dropout": True,
        "alphabet": "ESM-1b",
    }
    return {"hparams": hparams, "state_dict": state}
