"""Boltz-2 checkpoints with random weights: tiny for the tests, full size for the benchmark."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from boltz.main import Boltz2DiffusionParams, BoltzSteeringParams, MSAModuleArgs, PairformerArgsV2
from boltz.model.models.boltz2 import Boltz2
from omegaconf import OmegaConf

from gpu.boltz.profile import Profile
from gpu.boltz.weights import _uninitialised


@dataclass(frozen=True)
class Size:
    """Widths and depths; ``full`` are those of the published model."""

    atom: int
    atom_pair: int
    token: int
    token_pair: int
    fourier: int
    atom_depth: int
    atom_heads: int
    trunk_blocks: int
    trunk_heads: int
    msa_blocks: int
    denoiser_depth: int
    denoiser_heads: int
    conditioning: int
    confidence_blocks: int
    confidence_heads: int
    template: int
    template_blocks: int
    affinity_blocks: tuple[int, int]
    affinity_token: int
    affinity_depth: int
    affinity_heads: int

    def profile(self, profile: Profile, **changes: Any) -> Profile:
        """``profile`` for networks of this size."""
        return replace(
            profile,
            pairformer_blocks=self.trunk_blocks,
            pairformer_heads=self.trunk_heads,
            msa_blocks=self.msa_blocks,
            **changes,
        )


TINY = Size(16, 4, 16, 8, 16, 1, 2, 1, 2, 1, 1, 2, 1, 1, 2, 8, 1, (1, 1), 8, 1, 2)
FULL = Size(128, 16, 384, 128, 256, 3, 4, 64, 16, 4, 24, 16, 2, 8, 16, 64, 2, (8, 4), 384, 12, 8)


def write_checkpoints(folder: Path, size: Size, device: str = "cpu", gain: float = 1.0) -> tuple[Path, Path]:
    """``boltz2_conf.ckpt`` and ``boltz2_aff.ckpt`` in ``folder``; the same numbers every time on one device.

    No layer is left at zero (boltz starts many gates and projections there), so outputs depend on all inputs.
    ``gain`` scales every matrix: a huge one overflows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (kind, name) in enumerate((("structure", "boltz2_conf.ckpt"), ("affinity", "boltz2_aff.ckpt"))):
        settings = _hyperparameters(kind, size)
        with torch.random.fork_rng(devices=[]), _uninitialised():
            model = Boltz2(**copy.deepcopy(settings)).to(device)
        generator = torch.Generator(device).manual_seed(100 + index)
        with torch.no_grad():
            for name_of, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, device=device)
                if parameter.dim() > 1:
                    parameter.copy_(noise * (gain / math.sqrt(parameter.shape[-1])))
                else:
                    parameter.copy_(0.1 * noise + (1.0 if "norm" in name_of and name_of.endswith("weight") else 0.0))
        path = folder / name
        torch.save(
            {
                "state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
                "hyper_parameters": settings,
                "pytorch-lightning_version": "2.5.0",
                "epoch": 0,
                "global_step": 0,
                "loops": {},
                "callbacks": {},
                "optimizer_states": [],
                "lr_schedulers": [],
            },
            path,
        )
        paths.append(path)
    return paths[0], paths[1]


def _hyperparameters(kind: str, size: Size) -> dict[str, Any]:
    sampling = {"recycling_steps": 0, "sampling_steps": 2, "diffusion_samples": 1}
    training = {
        **sampling,
        "diffusion_multiplicity": 1,
        "max_lr": 1e-3,
        "base_lr": 0.0,
        "lr_scheduler": "af3",
        "weight_decay": 0.0,
    }
    settings: dict[str, Any] = {
        "atom_s": size.atom,
        "atom_z": size.atom_pair,
        "token_s": size.token,
        "token_z": size.token_pair,
        "num_bins": 64,
        "atom_feature_dim": 388,
        "training_args": OmegaConf.create(training),
        "validation_args": OmegaConf.create(sampling),
        "embedder_args": {
            "atom_encoder_depth": size.atom_depth,
            "atom_encoder_heads": size.atom_heads,
            "add_method_conditioning": True,
            "add_modified_flag": True,
            "add_cyclic_flag": True,
            "add_mol_type_feat": True,
        },
        "msa_args": asdict(MSAModuleArgs(subsample_msa=True, use_paired_feature=True, msa_blocks=size.msa_blocks)),
        "pairformer_args": asdict(PairformerArgsV2(num_blocks=size.trunk_blocks, num_heads=size.trunk_heads)),
        "score_model_args": {
            "sigma_data": 16,
            "dim_fourier": size.fourier,
            "atom_encoder_depth": size.atom_depth,
            "atom_encoder_heads": size.atom_heads,
            "token_transformer_depth": size.denoiser_depth,
            "token_transformer_heads": size.denoiser_heads,
            "atom_decoder_depth": size.atom_depth,
            "atom_decoder_heads": size.atom_heads,
            "conditioning_transition_layers": size.conditioning,
        },
        "diffusion_process_args": asdict(Boltz2DiffusionParams()),
        "diffusion_loss_args": {
            "add_smooth_lddt_loss": True,
            "nucleotide_loss_weight": 5.0,
            "ligand_loss_weight": 10.0,
        },
        "confidence_prediction": True,
        "alpha_pae": 1.0,
        "token_level_confidence": True,
        "confidence_model_args": {
            "num_dist_bins": 64,
            "max_dist": 22,
            "add_s_to_z_prod": True,
            "add_s_input_to_s": True,
            "add_z_input_to_z": True,
            "pairformer_args": {
                "num_blocks": size.confidence_blocks,
                "num_heads": size.confidence_heads,
                "dropout": 0.0,
            },
            "confidence_args": {
                "num_plddt_bins": 50,
                "num_pde_bins": 64,
                "num_pae_bins": 64,
                "use_separate_heads": True,
            },
        },
        "structure_prediction_training": False,
        "validate_structure": False,
        "fix_sym_check": True,
        "cyclic_pos_enc": True,
        "bond_type_feature": True,
        "conditioning_cutoff_min": 4.0,
        "conditioning_cutoff_max": 20.0,
        "use_templates": True,
        "use_templates_v2": True,
        "template_args": {"template_dim": size.template, "template_blocks": size.template_blocks},
        "predict_bfactor": True,
        "steering_args": asdict(BoltzSteeringParams()),
    }
    if kind == "affinity":
        settings |= {"affinity_prediction": True, "affinity_ensemble": True}
        for number, blocks in enumerate(size.affinity_blocks, start=1):
            settings[f"affinity_model_args{number}"] = {
                "num_dist_bins": 64,
                "max_dist": 22,
                "pairformer_args": {"num_blocks": blocks, "dropout": 0.0},
                "transformer_args": {
                    "token_s": size.affinity_token,
                    "num_blocks": size.affinity_depth,
                    "num_heads": size.affinity_heads,
                    "activation_checkpointing": False,
                },
            }
    return settings
