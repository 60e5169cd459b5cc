"""boltz's score network, packed: the same mathematics in a fifth of the launches.

What a diffusion step shares with the others is computed once per molecule; what its layers share in one product;
what its samples share for one of them. Positions, conditions and residuals are float32 as in boltz; the operands of the
transformers' products are in the working precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpu.boltz.sequence_kernels import Windows

LOG2_E: Final = math.log2(math.e)
_MASKED: Final = -1e6


@dataclass
class _Modulation:
    """What the condition makes of one layer: scales, shifts and gates (before σ) of its two halves (1 × rows × D)."""

    scale: tuple[Tensor, Tensor]
    shift: tuple[Tensor, Tensor]
    gate: tuple[Tensor, Tensor]


class _Modulator(nn.Module):
    """All layers' modulations as two products of the condition (adaptive layer norm, boltz's algorithm 26)."""

    norm_weight: Tensor
    norm_bias: Tensor
    gate_weight: Tensor
    gate_bias: Tensor

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
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
        self.register_buffer(name, value.detach().to(self.dtype, copy=True), persistent=False)

    def forward(self, condition: Tensor) -> list[_Modulation]:
        """``condition`` (1 × rows × D_s) → one modulation per layer."""
        normed = functional.layer_norm(condition, condition.shape[-1:]).to(self.dtype)
        parts = functional.linear(normed, self.norm_weight, self.norm_bias).chunk(4 * self.layers, dim=-1)
        scale, shift = parts[: 2 * self.layers], parts[2 * self.layers :]
        gate = functional.linear(condition.to(self.dtype), self.gate_weight, self.gate_bias).chunk(
            2 * self.layers, dim=-1
        )
        return [
            _Modulation((scale[i], scale[i + 1]), (shift[i], shift[i + 1]), (gate[i], gate[i + 1]))
            for i in range(0, 2 * self.layers, 2)
        ]


class _Layer(nn.Module):
    """One transformer layer's weights: packed projections around its attention."""

    to_qkvg: Tensor
    to_qkvg_bias: Tensor
    to_output: Tensor
    widen: Tensor
    narrow: Tensor

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        attention, transition = source.pair_bias_attn, source.transition
        weight, bias = packed_projections(attention)
        self._keep("to_qkvg", weight)
        self._keep("to_qkvg_bias", bias)
        self._keep("to_output", attention.proj_o.weight)
        self._keep("widen", torch.cat((transition.swish_gate[0].weight, transition.a_to_b.weight)))
        self._keep("narrow", transition.b_to_a.weight)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().to(self.dtype, copy=True), persistent=False)


class _Layers(nn.Module):
    """A stack of transformer layers. ``kernels`` has the functions of ``sequence_kernels``."""

    def __init__(
        self, layers: Sequence[Any], dtype: torch.dtype, kernels: ModuleType, windows: Windows | None = None
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.layers = nn.ModuleList(_Layer(layer, dtype) for layer in layers)
        self.kernels, self.windows = kernels, windows

    def forward(self, a: Tensor, modulations: Sequence[_Modulation], biases: Sequence[Tensor]) -> Tensor:
        """``a`` (samples × rows × D), which is overwritten; ``biases`` as attention takes them, one per layer."""
        kernels = self.kernels
        b = kernels.modulated(a, modulations[0].scale[0], modulations[0].shift[0], self.dtype)
        layers = cast("Sequence[_Layer]", self.layers)
        for number, layer in enumerate(layers):
            modulation = modulations[number]
            qkvg = functional.linear(b, layer.to_qkvg, layer.to_qkvg_bias)
            o = functional.linear(kernels.attended(qkvg, biases[number], self.windows), layer.to_output)
            b = kernels.added_and_modulated(
                a, o, modulation.gate[0], modulation.scale[1], modulation.shift[1], self.dtype
            )
            hidden = kernels.swish_gated(functional.linear(b, layer.widen))
            o = functional.linear(hidden, layer.narrow)
            if number + 1 < len(layers):
                after = modulations[number + 1]
                b = kernels.added_and_modulated(a, o, modulation.gate[1], after.scale[0], after.shift[0], self.dtype)
            else:
                kernels.added_(a, o, modulation.gate[1])
        return a


def packed_projections(attention: Any) -> tuple[Tensor, Tensor]:
    """A boltz attention's query, key, value and gate weights as one; queries scaled for powers of two."""
    query = attention.proj_q
    scale = LOG2_E / math.sqrt(attention.head_dim)
    others = (attention.proj_k.weight, attention.proj_v.weight, attention.proj_g.weight)
    bias = query.bias.new_zeros(4 * len(query.bias))
    bias[: len(query.bias)] = query.bias * scale
    return torch.cat([query.weight * scale, *others]), bias


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

    def __init__(self, source: Any, dtype: torch.dtype, kernels: ModuleType) -> None:
        super().__init__()
        self.source = source
        self.windows = Windows(source.atoms_per_window_queries, source.atoms_per_window_keys)
        encoder = source.atom_attention_encoder.atom_encoder.diffusion_transformer.layers
        decoder = source.atom_attention_decoder.atom_decoder.diffusion_transformer.layers
        tokens = source.token_transformer.layers
        self.encoder, self.encoder_modulator = (
            _Layers(encoder, dtype, kernels, self.windows),
            _Modulator(encoder, dtype),
        )
        self.decoder, self.decoder_modulator = (
            _Layers(decoder, dtype, kernels, self.windows),
            _Modulator(decoder, dtype),
        )
        self.tokens, self.token_modulator = _Layers(tokens, dtype, kernels), _Modulator(tokens, dtype)
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
            kept = self._molecule = self._prepared(s_inputs, s_trunk, feats, diffusion_conditioning)
        source = self.source
        conditioner = source.single_conditioner
        # every sample is at the same time
        time = conditioner.fourier_to_single(conditioner.norm_fourier(conditioner.fourier_embed(times[:1])))
        s = kept.single + time[:, None]
        for transition in conditioner.transitions:
            s = transition(s) + s

        q = kept.q + source.atom_attention_encoder.r_to_q_trans(r_noisy)
        q = self.encoder(q, kept.encoder, kept.encoder_bias)
        a = torch.matmul(kept.pool, source.atom_attention_encoder.atom_to_token_trans(q))
        a = a + source.s_to_a_linear(s)
        a = self.tokens(a, self.token_modulator(s), kept.token_bias)
        spread = source.atom_attention_decoder.a_to_q_trans(source.a_norm(a))
        q = torch.addcmul(q, spread[:, kept.token_of_atom], kept.atom_mask)
        q = self.decoder(q, kept.decoder, kept.decoder_bias)
        return source.atom_attention_decoder.atom_feat_to_atom_pos_update(q)  # type: ignore[no-any-return]

    def _prepared(
        self,
        s_inputs: Tensor,
        s_trunk: Tensor,
        feats: dict[str, Tensor],
        conditioning: dict[str, Any],
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
            encoder_bias=_window_bias(conditioning["atom_enc_bias"], len(self.encoder.layers), hidden),
            decoder_bias=_window_bias(conditioning["atom_dec_bias"], len(self.decoder.layers), hidden),
            token_bias=[
                part[0] * LOG2_E for part in _layers(conditioning["token_trans_bias"], len(self.tokens.layers))
            ],
        )


def _window_bias(bias: Tensor, layers: int, hidden: Tensor) -> list[Tensor]:
    """Per layer: windows × heads × queries × keys, what lies beyond the atoms masked."""
    return [(part + hidden) * LOG2_E for part in _layers(bias[0], layers)]


def _layers(bias: Tensor, layers: int) -> list[Tensor]:
    """(B × Q × K × layers·heads) → per layer B × heads × Q × K, contiguous, float32."""
    split = bias.float().reshape(*bias.shape[:-1], layers, -1).permute(3, 0, 4, 1, 2)
    return [part.contiguous() for part in split]
