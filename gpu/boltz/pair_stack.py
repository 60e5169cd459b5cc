"""boltz's pair layers for the ``fast`` profile: the same mathematics in fewer, wider steps of bfloat16.

The pair representation stays float32 between steps. Weights that read the same rows are one matrix; tokens are
padded to a multiple of 16, masked wherever tokens mix; triangle attention runs in torch's memory-efficient kernel,
which never writes its N³ weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_TOKEN_MULTIPLE: Final = 16
_DRAWS_PER_LAYER: Final = 4
_NEVER: Final = -1e9
_ATTENTION: Final = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class _Packed(nn.Module):
    """Holds weights in the working precision, norms in float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def keep(self, name: str, *parts: Tensor) -> None:
        """The parts, one below the other, as one matrix in the working precision."""
        self.register_buffer(name, torch.cat([part.detach() for part in parts]).to(self.dtype), persistent=False)

    def keep_norm(self, name: str, norm: Any) -> None:
        self.register_buffer(f"{name}_weight", norm.weight.detach().float().clone(), persistent=False)
        self.register_buffer(f"{name}_bias", norm.bias.detach().float().clone(), persistent=False)


class _TriangleProduct(_Packed):
    norm_in_weight: Tensor
    norm_in_bias: Tensor
    norm_out_weight: Tensor
    norm_out_bias: Tensor
    to_operands: Tensor
    to_update: Tensor
    to_gate: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, rows: ModuleType, outgoing: bool) -> None:
        super().__init__(dtype)
        self.rows, self.outgoing = rows, outgoing
        self.keep_norm("norm_in", source.norm_in)
        self.keep_norm("norm_out", source.norm_out)
        self.keep("to_operands", source.p_in.weight, source.g_in.weight)
        self.keep("to_update", source.p_out.weight)
        self.keep("to_gate", source.g_out.weight)

    def forward(self, z: Tensor, present: Tensor) -> None:
        padded, width = z.shape[0], z.shape[-1]
        x = self.rows.normed(z, self.norm_in_weight, self.norm_in_bias, self.dtype)
        operands = functional.glu(self.to_operands @ x.t(), dim=0)
        a, b = operands.view(2, width, padded, padded)
        if self.outgoing:
            a *= present.to(a.dtype)
            product = torch.bmm(a, b.transpose(1, 2))
        else:
            a *= present.to(a.dtype)[:, None]
            product = torch.bmm(a.transpose(1, 2), b)
        y = self.rows.normed_channels(product.view(width, -1), self.norm_out_weight, self.norm_out_bias)
        self.rows.add_(z, y @ self.to_update.t(), x @ self.to_gate.t())


class _TriangleAttention(_Packed):
    norm_weight: Tensor
    norm_bias: Tensor
    to_qkvg: Tensor
    to_bias: Tensor
    to_update: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__(dtype)
        self.rows, self.swap = rows, not source.starting
        self.heads, self.width = source.mha.no_heads, source.mha.c_hidden
        mha = source.mha
        self.keep_norm("norm", source.layer_norm)
        self.keep("to_qkvg", mha.linear_q.weight, mha.linear_k.weight, mha.linear_v.weight, mha.linear_g.weight)
        self.keep("to_bias", source.linear.weight)
        self.keep("to_update", mha.linear_o.weight)

    def forward(self, z: Tensor, present: Tensor) -> None:
        padded, inner = z.shape[0], self.heads * self.width
        x = self.rows.normed(z, self.norm_weight, self.norm_bias, self.dtype, self.swap)
        qkvg = x @ self.to_qkvg.t()
        bias = (self.to_bias @ x.t()).view(self.heads, padded, padded)
        bias += ((1 - present) * _NEVER).to(bias.dtype)
        q, k, v, _ = qkvg.view(padded, padded, 4, self.heads, self.width).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(_ATTENTION):
            o = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(padded, -1, -1, -1))
        o = self.rows.gated(o.transpose(1, 2).reshape(-1, inner), qkvg[:, 3 * inner :])
        self.rows.add_(z, o @ self.to_update.t(), None, self.swap)


class _Transition(_Packed):
    norm_weight: Tensor
    norm_bias: Tensor
    widen: Tensor
    narrow: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__(dtype)
        self.rows = rows
        self.keep_norm("norm", source.norm)
        self.keep("widen", source.fc1.weight, source.fc2.weight)
        self.keep("narrow", source.fc3.weight)

    def forward(self, z: Tensor) -> None:
        x = self.rows.normed(z, self.norm_weight, self.norm_bias, self.dtype)
        hidden = x @ self.widen.t()
        half = hidden.shape[1] // 2
        self.rows.add_(z, self.rows.gated(hidden[:, half:], hidden[:, :half], silu=True) @ self.narrow.t())


class _SequenceAttention(_Packed):
    """The single representation's attention, in float32 as in boltz; its pair bias in the working precision."""

    norm_weight: Tensor
    norm_bias: Tensor
    to_bias: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__(dtype)
        self.rows, self.source = rows, source
        self.keep_norm("norm", source.attention.proj_z[0])
        self.keep("to_bias", source.attention.proj_z[1].weight)

    def forward(self, s: Tensor, z: Tensor, present: Tensor) -> Tensor:
        attention: Any = self.source.attention
        padded = z.shape[0]
        x = self.rows.normed(z, self.norm_weight, self.norm_bias, self.dtype)
        bias = (self.to_bias @ x.t()).view(1, -1, padded, padded).float()
        bias += (1 - present) * _NEVER
        normed = self.source.pre_norm_s(s)
        q, k, v = (
            project(normed).view(1, padded, attention.num_heads, attention.head_dim).transpose(1, 2)
            for project in (attention.proj_q, attention.proj_k, attention.proj_v)
        )
        with sdpa_kernel(_ATTENTION):
            o = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        o = o.transpose(1, 2).reshape(1, padded, -1)
        s = s + attention.proj_o(torch.sigmoid(attention.proj_g(normed)) * o)
        return s + self.source.transition_s(s)  # type: ignore[no-any-return]


class PackedPairLayer(nn.Module):
    """One of boltz's pair layers, with or without the single representation. ``source`` loses what is packed."""

    def __init__(self, source: Any, dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__()
        self.product_out = _TriangleProduct(source.tri_mul_out, dtype, rows, outgoing=True)
        self.product_in = _TriangleProduct(source.tri_mul_in, dtype, rows, outgoing=False)
        self.attention_start = _TriangleAttention(source.tri_att_start, dtype, rows)
        self.attention_end = _TriangleAttention(source.tri_att_end, dtype, rows)
        self.transition = _Transition(source.transition_z, dtype, rows)
        self.sequence = _SequenceAttention(source, dtype, rows) if hasattr(source, "attention") else None
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


class PackedPairCore(nn.Module):
    """The layers on padded tokens: every shape a multiple of 16, so that few recordings serve many ligands."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PackedPairLayer(layer, dtype, rows) for layer in layers)

    def forward(
        self, s: Tensor, z: Tensor, mask: Tensor, pair_mask: Tensor, use_kernels: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``s`` (1 × N × d_s), ``z`` (N × N × d_z), ``mask`` (N): 1 for a token, 0 for padding."""
        # on a GPU any number up to a block's advances the generator alike; on a CPU each is counted
        draws = mask.shape[0] if z.is_cuda else int(mask.sum())
        room, single = z.clone(), s
        for layer in self.layers:
            single = layer(single, room, mask, draws)
        return single, room


class PackedPairStack(nn.Module):
    """In place of boltz's pairformer: the same arguments and results, one record, no padding of its own."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__()
        self.core: nn.Module = PackedPairCore(layers, dtype, rows)

    def forward(
        self, s: Tensor, z: Tensor, mask: Tensor, pair_mask: Tensor, use_kernels: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``s`` (1 × N × d_s), ``z`` (1 × N × N × d_z); both come back in float32."""
        tokens = z.shape[1]
        with torch.autocast(z.device.type, enabled=False):
            room, present = _padded(z)
            single = functional.pad(s.float(), (0, 0, 0, room.shape[0] - tokens))
            single, room = self.core(single, room, present, present)
        return single[:, :tokens].contiguous(), room[None, :tokens, :tokens].contiguous()


class PackedPairOnly(nn.Module):
    """In place of one of boltz's pair layers without a single representation (the MSA module's)."""

    def __init__(self, layer: Any, dtype: torch.dtype, rows: ModuleType) -> None:
        super().__init__()
        self.layer = PackedPairLayer(layer, dtype, rows)

    def forward(
        self, z: Tensor, pair_mask: Tensor, chunk_size_tri_attn: int | None = None, use_kernels: bool = False
    ) -> Tensor:
        """``z`` (1 × N × N × d_z); comes back in float32."""
        tokens = z.shape[1]
        with torch.autocast(z.device.type, enabled=False):
            room, present = _padded(z)
            self.layer(None, room, present, tokens)
        return room[None, :tokens, :tokens].contiguous()


def _padded(z: Tensor) -> tuple[Tensor, Tensor]:
    """``z`` (1 × N × N × D) in a larger square, and which of its tokens are there."""
    tokens, width = z.shape[1], z.shape[-1]
    size = -(-tokens // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE
    room = torch.zeros((size, size, width), dtype=torch.float32, device=z.device)
    room[:tokens, :tokens] = z[0]
    return room, (torch.arange(size, device=z.device) < tokens).float()
