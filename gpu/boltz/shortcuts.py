"""Work that boltz does without effect on a number, left out: the bits of every result stay."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from boltz.model.layers import pairformer
from boltz.model.layers.triangular_attention import primitives
from boltz.model.modules import trunkv2
from boltz.model.modules.utils import compute_random_augmentation
from torch import Tensor, nn


class AbsentTemplates(nn.Module):
    """boltz's template module where a record has no template: its update is zero, so it is not computed.

    The dropout masks that the module would have drawn (and, dropping nothing, not used) are drawn all the same:
    everything after them in the random stream stays where boltz has it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._draws = 4 * len(module.pairformer.layers)  # type: ignore[union-attr, arg-type]

    def forward(self, z: Tensor, feats: Mapping[str, Tensor], pair_mask: Tensor, use_kernels: bool = False) -> Tensor:
        if bool(feats["template_mask"].any()):
            return self.module(z, feats, pair_mask, use_kernels=use_kernels)  # type: ignore[no-any-return]
        records, templates, tokens = feats["template_restype"].shape[:3]
        for _ in range(self._draws):
            torch.rand((records * templates, tokens, 1, 1), device=z.device)
        return torch.zeros_like(z)


def sampled(
    diffusion: Any,
    atom_mask: Tensor,
    num_sampling_steps: int,
    multiplicity: int,
    max_parallel_samples: int | None = None,
    steering_args: Mapping[str, Any] | None = None,
    **conditions: Any,
) -> dict[str, Tensor | None]:
    """boltz's diffusion sampling without steering, in place of its ``sample``: the same draws and arithmetic.

    boltz asks the device for the noise level three times a step and uploads the sample numbers, each of which waits
    until the device is idle. Here the schedule is fetched once and the device always has work waiting. All samples
    are denoised together, which is what boltz does for one parallel sample, too.
    """
    shape = (atom_mask.shape[0] * multiplicity, *atom_mask.shape[1:], 3)
    device = diffusion.device
    schedule = diffusion.sample_schedule(num_sampling_steps)
    increase = torch.where(schedule > diffusion.gamma_min, diffusion.gamma_0, 0.0)
    levels, gammas = schedule.tolist(), increase.tolist()
    coordinates = schedule[0] * torch.randn(shape, device=device)
    for before, after, gamma in zip(levels[:-1], levels[1:], gammas[1:], strict=True):
        rotation, shift = compute_random_augmentation(multiplicity, device=device, dtype=coordinates.dtype)
        coordinates = coordinates - coordinates.mean(dim=-2, keepdim=True)
        coordinates = torch.einsum("bmd,bds->bms", coordinates, rotation) + shift
        level = before * (1 + gamma)
        variance = diffusion.noise_scale**2 * (level**2 - before**2)
        noisy = coordinates + math.sqrt(variance) * torch.randn(shape, device=device)
        denoised = diffusion.preconditioned_network_forward(
            noisy, level, network_condition_kwargs={"multiplicity": multiplicity, **conditions}
        )
        slope = (noisy - denoised) / level
        coordinates = noisy + diffusion.step_scale * (after - level) * slope
    return {"sample_atom_coords": coordinates, "diff_token_repr": None}


class _NothingDropped:
    """A dropout mask of ones: what it multiplies stays, in the mask's float32."""

    def __mul__(self, tensor: Tensor) -> Tensor:
        return tensor.float()


_NOTHING_DROPPED = _NothingDropped()


def _drawn_mask(dropout: float, z: Tensor, training: bool, columnwise: bool = False) -> _NothingDropped:
    """boltz's dropout mask at inference: drawn, because the random stream goes on from there, and all ones."""
    slot = z[:, 0:1, :, 0:1] if columnwise else z[:, :, 0:1, 0:1]
    torch.rand(slot.shape, dtype=torch.float32, device=z.device)
    return _NOTHING_DROPPED


def _unmasked(
    attention: primitives.Attention,
    q_x: Tensor,
    kv_x: Tensor,
    tri_bias: Tensor,
    mask_bias: Tensor,
    mask: Tensor,
    use_kernels: bool = False,
) -> Tensor:
    """boltz's triangle attention without its mask bias, which is zero where every pair takes part."""
    if use_kernels:
        return primitives.Attention.forward(  # type: ignore[no-any-return]
            attention, q_x, kv_x, tri_bias, mask_bias, mask, use_kernels=True
        )
    query, key, value = attention._prep_qkv(q_x, kv_x)
    weights = torch.matmul(query, key.transpose(-1, -2))
    weights += tri_bias
    output = torch.matmul(primitives.softmax_no_cast(weights, -1), value)
    return attention._wrap_up(output.transpose(-2, -3), q_x)  # type: ignore[no-any-return]


@contextlib.contextmanager
def idle_terms_left_out(model: Any, features: Mapping[str, Any]) -> Iterator[None]:
    """While ``model`` predicts on ``features``: no multiplication by masks of ones, no addition of zero biases.

    The affinity heads attend to some pairs only and keep their masks; so does a record with padding, which one
    made alone never has.
    """
    whole: tuple[nn.Module, ...] = ()
    if bool(features["token_pad_mask"].all()):
        whole = (model.msa_module, model.pairformer_module, model.confidence_module)
    attentions = [module for part in whole for module in part.modules() if isinstance(module, primitives.Attention)]
    boltz_mask = pairformer.get_dropout_mask
    for attention in attentions:
        attention.forward = functools.partial(_unmasked, attention)
    for place in (pairformer, trunkv2):
        place.get_dropout_mask = _drawn_mask
    try:
        yield
    finally:
        for place in (pairformer, trunkv2):
            place.get_dropout_mask = boltz_mask
        for attention in attentions:
            del attention.forward
