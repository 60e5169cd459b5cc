"""boltz's pair layers, packed: the same mathematics in a few passes over the pair representation.

The pair representation stays float32 between steps; operands of products are in the working precision. Weights that
read the same rows are one matrix; tokens are padded to a multiple of 16, masked wherever tokens mix; triangle
attention never writes its N³ weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final, NamedTuple

import torch
from boltz.model.layers.dropout import get_dropout_mask
from torch import Tensor, nn
from torch.nn import functional

from gpu.boltz.denoiser import LOG2_E, packed_projections
from gpu.boltz.pair_kernels import Norm

_TOKEN_MULTIPLE: Final = 16
_DRAWS_PER_LAYER: Final = 4
_NEVER: Final = -1e9


class Kernels(NamedTuple):
    """The modules whose functions run the steps: ``pair_kernels`` and ``sequence_kernels``, or their Triton likes."""

    pair: ModuleType
    sequence: ModuleType


class _Packed(nn.Module):
    """Holds weights, inputs × outputs, in the working precision; norms in float32."""

    def __init__(self, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.dtype, self.kernels = dtype, kernels

    def keep(self, name: str, *parts: Tensor) -> None:
        """The parts, side by side, as one matrix in the working precision."""
        packed = torch.cat([part.detach() for part in parts]).t().contiguous()
        self.register_buffer(name, packed.to(self.dtype), persistent=False)

    def keep_norm(self, name: str, norm: Any) -> None:
        self.register_buffer(f"{name}_weight", norm.weight.detach().float().clone(), persistent=False)
        self.register_buffer(f"{name}_bias", norm.bias.detach().float().clone(), persistent=False)

    def norm(self, name: str) -> Norm:
        return Norm(getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))


class _TriangleProduct(_Packed):
    values: Tensor
    gates: Tensor
    to_update: Tensor
    to_gate: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels, outgoing: bool) -> None:
        super().__init__(dtype, kernels)
        self.outgoing = outgoing
        self.keep_norm("norm_in", source.norm_in)
        self.keep_norm("norm_out", source.norm_out)
        self.keep("values", source.p_in.weight)
        self.keep("gates", source.g_in.weight)
        self.keep("to_update", source.p_out.weight)
        self.keep("to_gate", source.g_out.weight)

    def forward(self, z: Tensor, present: Tensor) -> None:
        padded, width = z.shape[0], z.shape[-1]
        norm = self.norm("norm_in")
        operands = self.kernels.pair.operands(z, norm, self.values, self.gates, present)
        a, b = operands.view(2, width, padded, padded)
        product = torch.bmm(a, b.transpose(1, 2)) if self.outgoing else torch.bmm(a.transpose(1, 2), b)
        self.kernels.pair.close_triangle_(
            z, product.view(width, -1), norm, self.norm("norm_out"), self.to_update, self.to_gate
        )


class _TriangleAttention(_Packed):
    to_qkvg: Tensor
    to_bias: Tensor
    to_update: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__(dtype, kernels)
        self.swap = not source.starting
        mha = source.mha
        scale = LOG2_E / math.sqrt(mha.c_hidden)
        self.keep_norm("norm", source.layer_norm)
        self.keep("to_qkvg", mha.linear_q.weight * scale, mha.linear_k.weight, mha.linear_v.weight, mha.linear_g.weight)
        self.keep("to_bias", source.linear.weight * LOG2_E)
        self.keep("to_update", mha.linear_o.weight)

    def forward(self, z: Tensor, present: Tensor) -> None:
        padded = z.shape[0]
        qkvg, bias = self.kernels.pair.projected(z, self.norm("norm"), self.to_qkvg, self.to_bias, self.swap)
        bias = bias.view(-1, padded, padded)
        bias += ((1 - present) * _NEVER).to(bias.dtype)
        self.kernels.pair.add_(z, self.kernels.pair.attended(qkvg, bias), self.to_update, self.swap)


class _Transition(_Packed):
    gates: Tensor
    values: Tensor
    narrow: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__(dtype, kernels)
        self.keep_norm("norm", source.norm)
        self.keep("gates", source.fc1.weight)
        self.keep("values", source.fc2.weight)
        self.keep("narrow", source.fc3.weight)

    def forward(self, z: Tensor) -> None:
        self.kernels.pair.transition_(z, self.norm("norm"), self.gates, self.values, self.narrow)


class _SequenceAttention(_Packed):
    """The single representation's attention, in float32 as in boltz; its pair bias in the working precision."""

    to_bias: Tensor
    to_qkvg: Tensor
    to_qkvg_bias: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__(dtype, kernels)
        self.source = source
        self.keep_norm("norm", source.attention.proj_z[0])
        self.keep("to_bias", source.attention.proj_z[1].weight * LOG2_E)
        weight, bias = packed_projections(source.attention)
        self.register_buffer("to_qkvg", weight.detach().float(), persistent=False)
        self.register_buffer("to_qkvg_bias", bias.detach().float(), persistent=False)
        for part in ("proj_q", "proj_k", "proj_v", "proj_g", "proj_z"):
            delattr(source.attention, part)

    def forward(self, s: Tensor, z: Tensor, present: Tensor) -> Tensor:
        padded = z.shape[0]
        _, bias = self.kernels.pair.projected(z, self.norm("norm"), None, self.to_bias)
        bias = bias.view(-1, padded, padded).float()
        bias += (1 - present) * _NEVER
        qkvg = functional.linear(self.source.pre_norm_s(s), self.to_qkvg, self.to_qkvg_bias)
        s = s + self.source.attention.proj_o(self.kernels.sequence.attended(qkvg, bias))
        return s + self.source.transition_s(s)  # type: ignore[no-any-return]


class PackedPairLayer(nn.Module):
    """One of boltz's pair layers, with or without the single representation. ``source`` loses what is packed."""

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.product_out = _TriangleProduct(source.tri_mul_out, dtype, kernels, outgoing=True)
        self.product_in = _TriangleProduct(source.tri_mul_in, dtype, kernels, outgoing=False)
        self.attention_start = _TriangleAttention(source.tri_att_start, dtype, kernels)
        self.attention_end = _TriangleAttention(source.tri_att_end, dtype, kernels)
        self.transition = _Transition(source.transition_z, dtype, kernels)
        self.sequence = _SequenceAttention(source, dtype, kernels) if hasattr(source, "attention") else None
        for part in ("tri_mul_out", "tri_mul_in", "tri_att_start", "tri_att_end", "transition_z"):
            delattr(source, part)

    def forward(self, s: Tensor | None, z: Tensor, present: Tensor, draws: int) -> Tensor | None:
        """Update ``z`` (N × N × D) in place; returns the new ``s`` (1 × N × d_s), None without one.

        ``present`` (N) is 1 for a token and 0 for padding. ``draws`` random numbers are drawn four times, as boltz
        draws dropout masks (and drops nothing): the random stream stays in step with it.
        """
        for _ in range(_DRAWS_PER_LAYER):
            torch.rand(draws, device=z.device)
        self.product_out(z, present)
        self.product_in(z, present)
        self.attention_start(z, present)
        self.attention_end(z, present)
        self.transition(z)
        if self.sequence is None or s is None:
            return None
        return self.sequence(s, z, present)  # type: ignore[no-any-return]


class _PairLayers(nn.Module):
    """The layers on padded tokens: every shape a multiple of 16, so that few recordings serve many ligands."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PackedPairLayer(layer, dtype, kernels) for layer in layers)

    def forward(self, s: Tensor, z: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """``s`` (1 × N × d_s), ``z`` (N × N × d_z), ``present`` (N): 1 for a token, 0 for padding."""
        # on a GPU any number up to a block's advances the generator alike; on a CPU each is counted
        draws = len(present) if z.is_cuda else int(present.sum())
        room, single = z.clone(), s
        for layer in self.layers:
            single = layer(single, room, present, draws)
        return single, room


class PackedPairStack(nn.Module):
    """In place of boltz's pairformer: the same arguments and results, one record, no padding of its own."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.core: nn.Module = _PairLayers(layers, dtype, kernels)

    def forward(
        self, s: Tensor, z: Tensor, mask: Tensor, pair_mask: Tensor, use_kernels: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``s`` (1 × N × d_s), ``z`` (1 × N × N × d_z); both come back in float32."""
        tokens = z.shape[1]
        with torch.autocast(z.device.type, enabled=False):
            room, present = _padded(z)
            single = functional.pad(s.float(), (0, 0, 0, room.shape[0] - tokens))
            single, room = self.core(single, room, present)
        return single[:, :tokens].contiguous(), room[None, :tokens, :tokens].contiguous()


class PackedPairOnly(nn.Module):
    """In place of one of boltz's pair layers without a single representation."""

    def __init__(self, layer: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.layer = PackedPairLayer(layer, dtype, kernels)

    def forward(
        self, z: Tensor, pair_mask: Tensor, chunk_size_tri_attn: int | None = None, use_kernels: bool = False
    ) -> Tensor:
        """``z`` (1 × N × N × d_z); comes back in float32."""
        tokens = z.shape[1]
        with torch.autocast(z.device.type, enabled=False):
            room, present = _padded(z)
            self.layer(None, room, present, tokens)
        return room[None, :tokens, :tokens].contiguous()


class PackedMsa(nn.Module):
    """In place of boltz's MSA module where the alignment is the sequence alone; other alignments run through boltz's.

    With one row the outer product is of rank one: it goes into the pair representation as N small products, and its
    N × N × 1024 numbers are never written.
    """

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__()
        self.source = source
        for layer in source.layers:
            layer.pairformer_layer = PackedPairOnly(layer.pairformer_layer, dtype, kernels)
        self.layers = nn.ModuleList(_MsaLayer(layer, dtype, kernels) for layer in source.layers)

    def forward(self, z: Tensor, emb: Tensor, feats: dict[str, Tensor], use_kernels: bool = False) -> Tensor:
        """``z`` (1 × N × N × d_z), ``emb`` (1 × N × d_s); the new ``z`` in float32."""
        msa, source, tokens = feats["msa"], self.source, z.shape[1]
        if msa.shape[:2] != (1, 1):
            return source(z, emb, feats, use_kernels=use_kernels)  # type: ignore[no-any-return]
        with torch.autocast(z.device.type, enabled=False):
            if source.subsample_msa:
                torch.randperm(1)  # boltz's draw among the rows
            extra = [feats["has_deletion"], feats["deletion_value"]]
            if source.use_paired_feature:
                extra.append(feats["msa_paired"])
            width = source.msa_proj.in_features - len(extra)
            m = torch.cat([functional.one_hot(msa, width), *(column[..., None] for column in extra)], dim=-1)
            m = source.msa_proj(m.float()) + source.s_proj(emb.float())[:, None]
            room, present = _padded(z)
            m = functional.pad(m, (0, 0, 0, room.shape[0] - tokens))
            there = functional.pad(feats["msa_mask"][0, 0].float(), (0, room.shape[0] - tokens))
            for layer in self.layers:
                m = layer(m, room, present, there, tokens)
        return room[None, :tokens, :tokens].contiguous()


class _MsaLayer(_Packed):
    to_bias: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        super().__init__(dtype, kernels)
        self.source = source
        self.keep_norm("norm", source.pair_weighted_averaging.norm_z)
        self.keep("to_bias", source.pair_weighted_averaging.proj_z.weight)

    def forward(self, m: Tensor, z: Tensor, present: Tensor, there: Tensor, draws: int) -> Tensor:
        """Update ``z`` (N × N × d_z) in place; returns the new ``m`` (1 × 1 × N × d_m)."""
        source = self.source
        get_dropout_mask(source.msa_dropout, m, False)
        m = m + self._averaged(m, z, present)
        m = m + source.msa_transition(m)
        product = source.outer_product_mean
        normed = product.norm(m[0, 0])
        a, b = product.proj_a(normed) * there[:, None], product.proj_b(normed) * there[:, None]
        weight = product.proj_o.weight.view(-1, product.c_hidden, product.c_hidden)
        z.baddbmm_(b.expand(len(z), -1, -1), torch.einsum("nc,ocd->ndo", a, weight))
        z += product.proj_o.bias
        source.pairformer_layer.layer(None, z, present, draws)
        return m

    def _averaged(self, m: Tensor, z: Tensor, present: Tensor) -> Tensor:
        part, padded = self.source.pair_weighted_averaging, z.shape[0]
        _, bias = self.kernels.pair.projected(z, self.norm("norm"), None, self.to_bias)
        bias = bias.view(part.num_heads, padded, padded).float()
        weights = torch.softmax(bias + (1 - present) * _NEVER, dim=-1)
        normed = part.norm_m(m[0, 0])
        values = part.proj_m(normed).view(padded, part.num_heads, -1).transpose(0, 1)
        o = torch.bmm(weights, values).transpose(0, 1).reshape(padded, -1)
        return part.proj_o(o * torch.sigmoid(part.proj_g(normed)))[None, None]  # type: ignore[no-any-return]


def _padded(z: Tensor) -> tuple[Tensor, Tensor]:
    """``z`` (1 × N × N × D) in a larger square, and which of its tokens are there."""
    tokens, width = z.shape[1], z.shape[-1]
    size = -(-tokens // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE
    room = torch.zeros((size, size, width), dtype=torch.float32, device=z.device)
    room[:tokens, :tokens] = z[0]
    return room, (torch.arange(size, device=z.device) < tokens).float()
