"""Packed layers against boltz's own, in float32; Triton's kernels against plain torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from boltz.model.layers.pairformer import PairformerModule, PairformerNoSeqLayer
from boltz.model.modules.diffusionv2 import DiffusionModule
from boltz.model.modules.encodersv2 import get_indexing_matrix, single_to_keys
from boltz.model.modules.trunkv2 import MSAModule

from gpu.boltz import FAST, pair_kernels, sequence_kernels
from gpu.boltz.denoiser import PackedDenoiser
from gpu.boltz.packing import PLAIN
from gpu.boltz.pair_stack import PackedMsa, PackedPairOnly, PackedPairStack
from tests.gpu.boltz.conftest import PEPTIDE, QUICK
from tests.gpu.boltz.random_weights import TINY

TOKENS = 21
TOKEN_S, TOKEN_Z = 12, 16


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter.shape[-1], 4) ** 0.5)
    return module.eval().requires_grad_(False)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_packed_pair_stack_is_boltz_pairformer() -> None:
    boltz = randomised(PairformerModule(TOKEN_S, TOKEN_Z, num_blocks=2, num_heads=3, v2=True, dropout=0.0), 1)
    packed = PackedPairStack(copy.deepcopy(boltz).layers, torch.float32, PLAIN)
    s, z = drawn(1, TOKENS, TOKEN_S, seed=2), drawn(1, TOKENS, TOKENS, TOKEN_Z, seed=3)
    mask = torch.ones(1, TOKENS)
    pair_mask = mask[:, :, None] * mask[:, None, :]
    torch.manual_seed(7)
    expected_s, expected_z = boltz(s, z, mask, pair_mask)
    after_boltz = torch.rand(1)
    torch.manual_seed(7)
    got_s, got_z = packed(s, z, mask, pair_mask)
    assert torch.equal(torch.rand(1), after_boltz)
    assert got_z.shape == expected_z.shape
    torch.testing.assert_close(got_z, expected_z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got_s, expected_s, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected_z, z, atol=0.1)


def test_a_packed_layer_without_single_representation_is_boltz_one() -> None:
    boltz = randomised(PairformerNoSeqLayer(TOKEN_Z, dropout=0.0), 4)
    packed = PackedPairOnly(copy.deepcopy(boltz), torch.float32, PLAIN)
    z = drawn(1, TOKENS, TOKENS, TOKEN_Z, seed=5)
    expected = boltz(z, torch.ones(1, TOKENS, TOKENS))
    torch.testing.assert_close(packed(z, torch.ones(1, TOKENS, TOKENS)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_packed_denoiser_is_boltz_score_network(samples: int) -> None:
    tokens, atoms, queries, keys = 13, 96, 32, 128
    network = randomised(
        DiffusionModule(
            token_s=16, atom_s=16, dim_fourier=16, atom_encoder_depth=2, atom_encoder_heads=2,
            token_transformer_depth=3, token_transformer_heads=2, atom_decoder_depth=2, atom_decoder_heads=2,
        ),
        6,
    )  # fmt: skip
    packed = PackedDenoiser(copy.deepcopy(network), torch.float32, sequence_kernels)
    owner = torch.arange(90) * tokens // 90
    atom_to_token = torch.zeros(1, atoms, tokens)
    atom_to_token[0, torch.arange(90), owner] = 1
    present = torch.zeros(1, atoms)
    present[:, :90] = 1
    windows = atoms // queries
    indexing = get_indexing_matrix(windows, queries, keys, "cpu")

    def to_keys(single: torch.Tensor) -> torch.Tensor:
        return single_to_keys(single, indexing, queries, keys)  # type: ignore[no-any-return]

    conditioning: dict[str, Any] = {
        "q": drawn(1, atoms, 16, seed=8),
        "c": drawn(1, atoms, 16, seed=9),
        "to_keys": to_keys,
        "atom_enc_bias": drawn(1, windows, queries, keys, 4, seed=10),
        "atom_dec_bias": drawn(1, windows, queries, keys, 4, seed=11),
        "token_trans_bias": drawn(1, tokens, tokens, 6, seed=12),
    }
    feats = {
        "ref_pos": torch.zeros(1, atoms, 3),
        "atom_pad_mask": present,
        "atom_to_token": atom_to_token,
        "token_pad_mask": torch.ones(1, tokens),
    }
    fixed = {
        "s_inputs": drawn(1, tokens, 16, seed=13),
        "s_trunk": drawn(1, tokens, 16, seed=14),
        "feats": feats,
        "multiplicity": samples,
        "diffusion_conditioning": conditioning,
    }
    for step in range(2):
        r_noisy = drawn(samples, atoms, 3, seed=20 + step)
        times = torch.full((samples,), 0.3 - step)
        expected = network(r_noisy=r_noisy, times=times, **fixed)
        got = packed(r_noisy=r_noisy, times=times, **fixed)
        torch.testing.assert_close(got[:, :90], expected[:, :90], rtol=1e-4, atol=1e-4)
        assert expected[:, :90].abs().max() > 0.1


def test_packed_in_float32_a_whole_score_is_live_score(scorer_for: Any) -> None:
    """Everything in its place: packed, but in float32, the fast profile says what the live one says."""
    from dataclasses import replace

    live = scorer_for().pair_scores([PEPTIDE], ["CC(=O)Nc1ccc(O)cc1"])[0]
    scorer = scorer_for(replace(QUICK, name="packed", packed=True))
    packed = scorer.pair_scores([PEPTIDE], ["CC(=O)Nc1ccc(O)cc1"])[0]
    assert packed.error is None
    assert isinstance(scorer._loaded.structure.pairformer_module, PackedPairStack)
    assert isinstance(scorer._loaded.structure.structure_module.score_model, PackedDenoiser)
    for name, value in live.metrics.items():
        assert packed.metrics[name] == pytest.approx(value, abs=2e-5, rel=2e-5), name


def test_the_fast_profile_is_packed() -> None:
    assert FAST.packed
    assert TINY.profile(FAST).packed


def test_a_packed_msa_module_of_one_row_is_boltz_one() -> None:
    boltz = randomised(MSAModule(msa_s=8, token_z=TOKEN_Z, token_s=TOKEN_S, msa_blocks=2, msa_dropout=0.1,
                                 z_dropout=0.1, subsample_msa=True), 30)  # fmt: skip
    packed = PackedMsa(copy.deepcopy(boltz), torch.float32, PLAIN)
    one = torch.ones(1, 1, TOKENS)
    feats = {
        "msa": torch.arange(TOKENS)[None, None] % 20,
        "has_deletion": one * 0,
        "deletion_value": one * 0.3,
        "msa_paired": one,
        "msa_mask": one.long(),
        "token_pad_mask": one[0],
    }
    z, emb = drawn(1, TOKENS, TOKENS, TOKEN_Z, seed=31), drawn(1, TOKENS, TOKEN_S, seed=32)
    torch.manual_seed(7)
    expected = boltz(z, emb, feats)
    after_boltz = torch.rand(1)
    torch.manual_seed(7)
    torch.testing.assert_close(packed(z, emb, feats), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.rand(1), after_boltz)
    two = {key: value.repeat(1, 2, 1) if value.dim() == 3 else value for key, value in feats.items()}
    torch.testing.assert_close(packed(z, emb, two), boltz(z, emb, two), rtol=1e-4, atol=1e-4)


CLOSE: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 3e-2, "atol": 6e-2},
}


@pytest.mark.gpu
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("dtype", CLOSE)
def test_triton_pair_kernels_are_the_plain_ones(dtype: torch.dtype, swap: bool) -> None:
    from gpu.boltz import pair_kernels_triton

    n, width, heads = 48, 128, 4

    def weight(columns: int, seed: int, rows: int = width) -> torch.Tensor:
        return (drawn(rows, columns, seed=seed) / rows**0.5).to(dtype).cuda()

    z = drawn(n, n, width, seed=1).cuda() * 3 + 1
    norm = pair_kernels.Norm(drawn(width, seed=2).cuda(), drawn(width, seed=3).cuda())
    present = (torch.arange(n) < n - 5).float().cuda()
    product = drawn(width, n * n, seed=4).to(dtype).cuda()
    bias = drawn(heads, n, n, seed=5).to(dtype).cuda()
    results = []
    for kernels in (pair_kernels, pair_kernels_triton):
        wide, few = kernels.projected(z, norm, weight(512, 6), weight(heads, 7), swap)
        room = z.clone()
        kernels.close_triangle_(room, product, norm, norm, weight(width, 8), weight(width, 9))
        kernels.add_(room, kernels.attended(wide / 4, bias), weight(width, 10), swap)
        kernels.transition_(room, norm, weight(512, 11), weight(512, 12), weight(width, 13, 512))
        results.append((wide, few, kernels.operands(z, norm, weight(256, 14), weight(256, 15), present), room))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, **CLOSE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("windows", [None, sequence_kernels.Windows(32, 128)])
def test_triton_sequence_kernels_are_the_plain_ones(
    windows: sequence_kernels.Windows | None, dtype: torch.dtype
) -> None:
    from gpu.boltz import sequence_kernels_triton

    samples, rows, heads, width = 3, 96, 4, 48
    shape = (heads, rows, rows) if windows is None else (rows // 32, heads, 32, 128)
    qkvg = (drawn(samples, rows, 4 * heads * width, seed=1).cuda() / 3).to(dtype)
    bias = drawn(*shape, seed=2).cuda()
    if windows is not None:
        ends = windows.around(torch.ones(1, rows, 1))[0, :, :, 0].cuda()
        bias = bias + ((1 - ends) * -1e6)[:, None, None, :]
    inner = heads * width
    rest = [drawn(1, rows, 3 * inner, seed=seed).to(dtype).cuda()[..., inner : 2 * inner] for seed in (3, 4, 5)]
    results = []
    for kernels in (sequence_kernels, sequence_kernels_triton):
        o = kernels.attended(qkvg, bias, windows)
        a = o.float()
        b = kernels.added_and_modulated(a, o, *rest, dtype)
        added, modulated = kernels.added_(a, b, rest[0]), kernels.modulated(a, *rest[1:], dtype)
        results.append((o, b, added, modulated, kernels.swish_gated(qkvg)))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, **CLOSE[dtype])
