"""boltz's score network for the ``fast`` profile: the same mathematics in a third of the launches.

What a diffusion step shares with the others is computed once per molecule; what its layers share in one product;
what its samples share for one of them. Float32 (TF32 products), as boltz keeps the diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_ATTENTION: Final = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_MASKED: Final = -1e6
_ALIGNED: Final = 8


@dataclass
class _Modulation:
    """What the condition makes of one layer: scales, shifts and output gates of its two halves (1 × rows × D)."""

    scale: tuple[Tensor, Tensor]
    shift: tuple[Tensor, Tensor]
    gate: tuple[Tensor, Tensor]


class _Modulator(nn.Module):
    """All layers' modulations as two products of the condition (adaptive layer norm, boltz's algorithm 26)."""

    norm_weight: Tensor
    norm_bias: Tensor
    gate_weight: Tensor
    gate_bias: Tensor

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        norms = [norm for layer in layers for norm in (layer.adaln, layer.transition.adaln)]
        outputs = [
            linear
            for layer in layers
            for linear in (layer.output_projection_linear, layer.transition.output_projection[0])
        ]
        self.layers = len(layers)
        scales = [norm.s_scale.weight * norm.s_norm.weight for norm in norms]
        shifts = [norm.s_bias.weight * norm.s_norm.weight for norm in norms]
        scale_bias = torch.cat([norm.s_scale.bias for norm in norms])
        self._keep("norm_weight", torch.cat(scales + shifts))
        self._keep("norm_bias", torch.cat((scale_bias, torch.zeros_like(scale_bias))))
        self._keep("gate_weight", torch.cat([linear.weight for linear in outputs]))
        self._keep("gate_bias", torch.cat([linear.bias for linear in outputs]))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().clone(), persistent=False)

    def forward(self, condition: Tensor) -> list[_Modulation]:
        """``condition`` (1 × rows × D_s) → one modulation per layer."""
        normed = functional.layer_norm(condition, condition.shape[-1:])
        both = functional.linear(normed, self.norm_weight, self.norm_bias)
        half = both.shape[-1] // 2
        scales = torch.sigmoid(both[..., :half]).chunk(2 * self.layers, dim=-1)
        shifts = both[..., half:].chunk(2 * self.layers, dim=-1)
        gates = torch.sigmoid(functional.linear(condition, self.gate_weight, self.gate_bias))
        gate = gates.chunk(2 * self.layers, dim=-1)
        return [
            _Modulation((scales[i], scales[i + 1]), (shifts[i], shifts[i + 1]), (gate[i], gate[i + 1]))
            for i in range(0, 2 * self.layers, 2)
        ]


class _Layer(nn.Module):
    """One transformer layer: packed projections around its attention."""

    to_qkvg: Tensor
    to_qkvg_bias: Tensor
    to_output: Tensor
    widen: Tensor
    narrow: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        attention, transition = source.pair_bias_attn, source.transition
        self.heads, self.width = attention.num_heads, attention.head_dim
        inner = attention.proj_q.weight.shape[0]
        projections = (attention.proj_q, attention.proj_k, attention.proj_v, attention.proj_g)
        bias = attention.proj_q.bias.new_zeros(4 * inner)
        bias[:inner] = attention.proj_q.bias
        self._keep("to_qkvg", torch.cat([linear.weight for linear in projections]))
        self._keep("to_qkvg_bias", bias)
        self._keep("to_output", attention.proj_o.weight)
        self._keep("widen", torch.cat((transition.swish_gate[0].weight, transition.a_to_b.weight)))
        self._keep("narrow", transition.b_to_a.weight)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().clone(), persistent=False)

    def forward(self, a: Tensor, modulation: _Modulation, bias: Tensor, windows: Any = None) -> Tensor:
        """``a`` (samples × rows × D); ``bias`` broadcasts over attention weights; ``windows`` for local attention."""
        samples, rows, width = a.shape
        b = torch.addcmul(modulation.shift[0], modulation.scale[0], functional.layer_norm(a, (width,)))
        qkvg = functional.linear(b, self.to_qkvg, self.to_qkvg_bias)
        inner = self.heads * self.width
        q, kv, g = qkvg[..., :inner], qkvg[..., inner : 3 * inner], qkvg[..., 3 * inner :]
        if windows is None:
            q = q.view(samples, rows, self.heads, self.width)
            kv = kv.view(samples, rows, 2, self.heads, self.width)
        else:
            q, kv = windows(q, kv, self.heads)
        k, v = kv.unbind(-3)
        with sdpa_kernel(_ATTENTION):
            o = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias
            )
        o = o.transpose(1, 2).reshape(samples, rows, inner) * torch.sigmoid(g)
        a = torch.addcmul(a, modulation.gate[0], functional.linear(o, self.to_output))
        b = torch.addcmul(modulation.shift[1], modulation.scale[1], functional.layer_norm(a, (width,)))
        value, gate, factor = functional.linear(b, self.widen).chunk(3, dim=-1)
        hidden = functional.silu(gate).mul_(value).mul_(factor)
        return torch.addcmul(a, modulation.gate[1], functional.linear(hidden, self.narrow))


class _Windows:
    """boltz's local attention: each window of queries sees the atoms around it, zeros beyond the ends."""

    def __init__(self, queries: int, keys: int) -> None:
        self.queries, self.keys = queries, keys
        self.margin = (keys - queries) // 2

    def around(self, rows: Tensor) -> Tensor:
        """(samples × atoms × D) → (samples × windows × keys × D)."""
        padded = functional.pad(rows, (0, 0, self.margin, self.margin))
        return padded.unfold(1, self.keys, self.queries).transpose(-1, -2)

    def __call__(self, q: Tensor, kv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        width = q.shape[-1] // heads
        queries = q.reshape(-1, self.queries, heads, width)
        around = self.around(kv).reshape(-1, self.keys, 2, heads, width)
        return queries, around


@dataclass
class _Molecule:
    """What stays through one molecule's diffusion."""

    conditioning: Any
    single: Tensor
    q: Tensor
    pool: Tensor
    token_of_atom: Tensor
    atom_mask: Tensor
    encoder: list[_Modulation]
    decoder: list[_Modulation]
    encoder_bias: list[Tensor]
    decoder_bias: list[Tensor]
    token_bias: list[Tensor]


class PackedDenoiser(nn.Module):
    """In place of boltz's score network: its keyword arguments, its result (samples × atoms × 3).

    ``source`` loses the transformers that are packed.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source
        self.windows = _Windows(source.atoms_per_window_queries, source.atoms_per_window_keys)
        encoder = source.atom_attention_encoder.atom_encoder.diffusion_transformer.layers
        decoder = source.atom_attention_decoder.atom_decoder.diffusion_transformer.layers
        tokens = source.token_transformer.layers
        self.encoder, self.encoder_modulator = nn.ModuleList(map(_Layer, encoder)), _Modulator(encoder)
        self.decoder, self.decoder_modulator = nn.ModuleList(map(_Layer, decoder)), _Modulator(decoder)
        self.tokens, self.token_modulator = nn.ModuleList(map(_Layer, tokens)), _Modulator(tokens)
        del source.token_transformer
        del source.atom_attention_encoder.atom_encoder
        del source.atom_attention_decoder.atom_decoder
        self._molecule: _Molecule | None = None

    def forget(self) -> None:
        """Drop what was kept of the last molecule."""
        self._molecule = None

    def forward(
        self,
        *,
        s_inputs: Tensor,
        s_trunk: Tensor,
        r_noisy: Tensor,
        times: Tensor,
        feats: dict[str, Tensor],
        diffusion_conditioning: dict[str, Any],
        multiplicity: int = 1,
    ) -> Tensor:
        kept = self._molecule
        if kept is None or kept.conditioning is not diffusion_conditioning:
            kept = self._molecule = self._prepared(s_inputs, s_trunk, feats, diffusion_conditioning, multiplicity)
        source = self.source
        conditioner = source.single_conditioner
        # every sample is at the same time
        time = conditioner.fourier_to_single(conditioner.norm_fourier(conditioner.fourier_embed(times[:1])))
        s = kept.single + time[:, None]
        for transition in conditioner.transitions:
            s = transition(s) + s

        q = kept.q + source.atom_attention_encoder.r_to_q_trans(r_noisy)
        for layer, modulation, bias in zip(self.encoder, kept.encoder, kept.encoder_bias, strict=True):
            q = layer(q, modulation, bias, self.windows)
        a = torch.matmul(kept.pool, source.atom_attention_encoder.atom_to_token_trans(q))
        a = a + source.s_to_a_linear(s)
        modulations = self.token_modulator(s)
        for layer, modulation, bias in zip(self.tokens, modulations, kept.token_bias, strict=True):
            a = layer(a, modulation, bias.expand(a.shape[0], -1, -1, -1))
        spread = source.atom_attention_decoder.a_to_q_trans(source.a_norm(a))
        q = torch.addcmul(q, spread[:, kept.token_of_atom], kept.atom_mask)
        for layer, modulation, bias in zip(self.decoder, kept.decoder, kept.decoder_bias, strict=True):
            q = layer(q, modulation, bias, self.windows)
        return source.atom_attention_decoder.atom_feat_to_atom_pos_update(q)  # type: ignore[no-any-return]

    def _prepared(
        self,
        s_inputs: Tensor,
        s_trunk: Tensor,
        feats: dict[str, Tensor],
        conditioning: dict[str, Any],
        samples: int,
    ) -> _Molecule:
        conditioner = self.source.single_conditioner
        joined = torch.cat((s_trunk, s_inputs), dim=-1)
        c = conditioning["c"].float()
        atom_to_token = feats["atom_to_token"].float()
        pool = atom_to_token / (atom_to_token.sum(dim=1, keepdim=True) + 1e-6)
        atom_mask = feats["atom_pad_mask"].float()[..., None]
        around = self.windows.around(atom_mask)[0, :, :, 0]
        hidden = ((1 - around) * _MASKED)[:, None, None, :]
        return _Molecule(
            conditioning=conditioning,
            single=conditioner.single_embed(conditioner.norm_single(joined)),
            q=conditioning["q"].float(),
            pool=pool.transpose(1, 2).contiguous(),
            token_of_atom=atom_to_token[0].argmax(dim=-1),
            atom_mask=atom_mask,
            encoder=self.encoder_modulator(c),
            decoder=self.decoder_modulator(c),
            encoder_bias=self._window_bias(conditioning["atom_enc_bias"], len(self.encoder), hidden, samples),
            decoder_bias=self._window_bias(conditioning["atom_dec_bias"], len(self.decoder), hidden, samples),
            token_bias=[_aligned(part) for part in _layers(conditioning["token_trans_bias"], len(self.tokens))],
        )

    @staticmethod
    def _window_bias(bias: Tensor, layers: int, hidden: Tensor, samples: int) -> list[Tensor]:
        """Per layer: samples·windows × heads × queries × keys, what lies beyond the atoms masked."""
        return [(part + hidden).repeat(samples, 1, 1, 1) for part in _layers(bias[0], layers)]


def _layers(bias: Tensor, layers: int) -> list[Tensor]:
    """(B × Q × K × layers·heads) → per layer B × heads × Q × K, contiguous, float32."""
    split = bias.float().reshape(*bias.shape[:-1], layers, -1).permute(3, 0, 4, 1, 2)
    return [part.contiguous() for part in split]


def _aligned(bias: Tensor) -> Tensor:
    """The same values in rows that begin on 32 bytes, as the attention kernel wants them."""
    keys = bias.shape[-1]
    return functional.pad(bias, (0, -keys % _ALIGNED))[..., :keys]
