"""How a Boltz-2 score is computed: everything that decides a number and is not the molecule or the weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings of both stages. Two profiles never share a digest.

    ``pairformer_blocks``, ``pairformer_heads`` and ``msa_blocks`` state the architecture, as boltz's own command
    does: it ignores what the checkpoint says of them.
    """

    name: str
    precision: Literal["float32", "bfloat16"]
    tf32: bool = False
    """Whether float32 matrix products may run on tensor cores with 10-bit mantissas."""
    packed: bool = False
    """Pair layers and diffusion in fewer, wider steps; on CUDA with Triton's kernels where there are any."""
    recycling_steps: int = 3
    sampling_steps: int = 100
    diffusion_samples: int = 1
    affinity_recycling_steps: int = 5
    affinity_sampling_steps: int = 100
    affinity_diffusion_samples: int = 3
    molecular_weight_correction: bool = True
    alignment_reverse_diffusion: bool = False
    max_heavy_atoms: int = 128
    max_affinity_tokens: int = 256
    max_affinity_atoms: int = 2048
    base_seed: int = 68
    embedding_seconds: float = 60.0
    """How long one molecule's conformer embedding may take before it counts as failed."""
    pairformer_blocks: int = 64
    pairformer_heads: int = 16
    msa_blocks: int = 4
    max_msa_rows: int = 1024


LIVE: Final = Profile(name="live", precision="float32", packed=True)
"""The subnet's numerics: float32 throughout. On CUDA a product may be three of TF32, whose error is float32's."""

LIVE_2026: Final = Profile(name="live-2026", precision="bfloat16", tf32=True, alignment_reverse_diffusion=True)
"""The subnet's numerics since 2026: bf16-mixed and float32 products of "high" precision, as boltz's own command has it.

The subnet seeds once a call and runs cuEquivariance's kernels, so that nobody reproduces its numbers; it averages its
validators' instead. Here each record has its seed and torch's own kernels, as in LIVE.
"""

FAST: Final = Profile(name="fast", precision="bfloat16", tf32=True, packed=True)
"""Not the subnet's numerics: for screening. Its digest differs, so its scores never mix with LIVE's."""

PROFILES: Final = {profile.name: profile for profile in (LIVE, LIVE_2026, FAST)}


@dataclass(frozen=True, slots=True)
class PocketConstraint:
    """Residues (chain, 1-based position) that the ligand should touch, within ``max_distance`` Å.

    ``force`` adds a guiding potential to the diffusion; without it the model is only told.
    """

    contacts: tuple[tuple[str, int], ...]
    max_distance: float = 6.0
    force: bool = False


def record_seed(smiles: str, sequence: str, base_seed: int = LIVE.base_seed) -> int:
    """The seed of one (molecule, protein) record."""
    digest = hashlib.sha256((smiles + sequence).encode()).digest()
    return int((int.from_bytes(digest[:8], "little") ^ base_seed) % (2**31 - 1))
