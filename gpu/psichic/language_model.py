"""ESM-2 for one sequence at a time: token representations and contact map.

fair-esm's network is used: it is the one the original ran, it has the contact head, and it is small enough to read.
Weights may come as fair-esm released them (``esm2_*.pt`` with its ``-contact-regression.pt`` beside it), as the
Hugging Face hub has them (``pytorch_model.bin`` of ``facebook/esm2_*``: the same tensors under other names, contact
head included, and a hub that keeps checksums, which is why ``checkpoints fetch esm2`` takes those), or as a plain
``{'hparams', 'state_dict'}`` file for small test models.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from gpu.psichic.errors import CheckpointError

WINDOW: Final = 700
STRIDE: Final = 350

_BOS, _EOS = 0, 2
_TOKEN: Final = {letter: 4 + i for i, letter in enumerate("LAGVSERTIDPKQNFYMHWCX")}

_HUB_NAMES: Final = (
    (r"^esm\.embeddings\.word_embeddings\.", "embed_tokens."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.self\.query\.", r"layers.\1.self_attn.q_proj."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.self\.key\.", r"layers.\1.self_attn.k_proj."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.self\.value\.", r"layers.\1.self_attn.v_proj."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.self\.rotary_embeddings\.", r"layers.\1.self_attn.rot_emb."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.self_attn.out_proj."),
    (r"^esm\.encoder\.layer\.(\d+)\.attention\.LayerNorm\.", r"layers.\1.self_attn_layer_norm."),
    (r"^esm\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.fc1."),
    (r"^esm\.encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.fc2."),
    (r"^esm\.encoder\.layer\.(\d+)\.LayerNorm\.", r"layers.\1.final_layer_norm."),
    (r"^esm\.encoder\.emb_layer_norm_after\.", "emb_layer_norm_after."),
    (r"^esm\.contact_head\.", "contact_head."),
    (r"^lm_head\.layer_norm\.", "lm_head.layer_norm."),
    (r"^lm_head\.decoder\.weight$", "lm_head.weight"),
)
_UNUSED: Final = re.compile(r"position_embeddings|position_ids|^lm_head\.decoder\.bias$")


@dataclass(frozen=True, slots=True)
class LanguageOutput:
    """What ESM-2 says of a sequence of L residues."""

    token: NDArray[np.float16]
    """L × D"""
    contact: NDArray[np.floating[Any]]
    """L × L probabilities; float32 up to 700 residues, float64 above"""


class LanguageModel:
    """A loaded ESM-2 on one device, float32."""

    def __init__(self, network: torch.nn.Module, layers: int, width: int, device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._layers, self.width, self._device = layers, width, device

    def __call__(self, sequence: str) -> LanguageOutput:
        """Tokens and contacts of a sanitised sequence; beyond 700 residues in overlapping windows."""
        length = len(sequence)
        if length <= WINDOW:
            token, contact = self._window(sequence)
            return LanguageOutput(token.astype(np.float16), contact)
        tokens = np.zeros((length, self.width))
        contacts = np.zeros((length, length))
        start = 0
        while True:
            stop = min(start + WINDOW, length)
            token, contact = self._window(sequence[start:stop])
            rows, square = tokens[start:stop], contacts[start:stop, start:stop]
            rows[:] = np.where(rows.sum(axis=1, keepdims=True) != 0, (rows + token) / 2, token)
            square[:] = np.where(square != 0, (square + contact) / 2, contact)
            if stop == length:
                return LanguageOutput(tokens.astype(np.float16), contacts)
            start += STRIDE

    def _window(self, sequence: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = [_BOS, *(_TOKEN[letter] for letter in sequence), _EOS]
        with torch.no_grad():
            result = self._network(
                torch.tensor([tokens], device=self._device), repr_layers=[self._layers], return_contacts=True
            )
        token = result["representations"][self._layers][0, 1:-1]
        return token.cpu().numpy(), result["contacts"][0].cpu().numpy()


def load_language_model(path: Path, device: torch.device) -> LanguageModel:
    """Read an ESM-2 checkpoint file, or a folder that holds one. Raises :class:`CheckpointError`."""
    from esm.model.esm2 import ESM2

    file = language_model_file(path)
    data = _read(file)
    if not isinstance(data, Mapping):
        raise CheckpointError(
            f"{file} is not an ESM-2 checkpoint; fetch one with `python -m app checkpoints fetch esm2`."
        )
    layers, width, heads, state = _described(data, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, token_dropout=True)
    wanted = network.state_dict()
    state = {
        name: tensor for name, tensor in state.items() if name in wanted or not name.startswith("contact_head.bias")
    }
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise CheckpointError(
            f"{file} does not hold a whole ESM-2: missing {missing[:3]}, unexpected {extra[:3]}. A checkpoint as "
            "fair-esm released it needs its -contact-regression.pt beside it."
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file} has tensors of other shapes than its ESM-2 ({error}).") from error
    return LanguageModel(network, layers, width, device)


def language_model_file(path: Path) -> Path:
    """The checkpoint file that ``path`` names, itself or inside the folder. Raises :class:`CheckpointError`."""
    if path.is_file():
        return path
    if path.is_dir():
        for pattern in ("pytorch_model.bin", "esm2*.pt"):
            found = sorted(f for f in path.glob(pattern) if not f.stem.endswith("-contact-regression"))
            if found:
                return found[0]
    raise CheckpointError(
        f"{path} is no ESM-2 checkpoint; fetch one with `python -m app checkpoints fetch esm2` and name its file."
    )


def _read(file: Path) -> Any:
    import pickle

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as a torch file ({first}); fetch it again.") from error


def _described(data: Mapping[str, Any], file: Path) -> tuple[int, int, int, dict[str, torch.Tensor]]:
    """Layers, width, heads and fair-esm-named tensors of any of the three forms."""
    if "hparams" in data and "state_dict" in data:
        h = data["hparams"]
        return h["num_layers"], h["embed_dim"], h["attention_heads"], dict(data["state_dict"])
    if "cfg" in data and "model" in data:
        config = data["cfg"]["model"]
        state = {re.sub(r"^encoder\.(sentence_encoder\.)?", "", k): v for k, v in data["model"].items()}
        regression = file.with_name(file.stem + "-contact-regression.pt")
        if regression.is_file():
            state.update(_read(regression)["model"])
        return config.encoder_layers, config.encoder_embed_dim, config.encoder_attention_heads, state
    state = {}
    for name, tensor in data.items():
        if _UNUSED.search(name) or not isinstance(tensor, torch.Tensor):
            continue
        renamed = name
        for pattern, replacement in _HUB_NAMES:
            renamed = re.sub(pattern, replacement, renamed)
        state[renamed] = tensor
    layers = 1 + max((int(m[1]) for name in state if (m := re.match(r"layers\.(\d+)\.", name))), default=-1)
    embedding, frequency = state.get("embed_tokens.weight"), state.get("layers.0.self_attn.rot_emb.inv_freq")
    regression_weight = state.get("contact_head.regression.weight")
    if not layers or embedding is None or regression_weight is None:
        raise CheckpointError(f"{file} is not an ESM-2 checkpoint with a contact head.")
    width, heads = int(embedding.shape[1]), int(regression_weight.shape[1]) // layers
    state.setdefault("lm_head.weight", embedding)
    if frequency is None:
        per_head = width // heads
        frequency = 1.0 / (10000 ** (torch.arange(0, per_head, 2).float() / per_head))
        state.update({f"layers.{i}.self_attn.rot_emb.inv_freq": frequency for i in range(layers)})
    return layers, width, heads, state
