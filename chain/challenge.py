"""The epoch's challenge, drawn from the hash of its first block (specs/epoch.md §2)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from app.domain import Challenge, ValidatorError
from app.rules import Rules


class ChallengeError(ValidatorError):
    """The challenge cannot be drawn from what was given."""


def draw_challenge(start_block_hash: str, pool: Sequence[str], reaction_count: int, rules: Rules) -> Challenge:
    """Draw targets, antitargets and the allowed reactions.

    Args:
        start_block_hash: hash of block ``start``, with or without ``0x``.
        pool: UniProt entries of the protein pool in the dataset's own row order.
        reaction_count: rows of the table ``reactions``.
        rules: the rules in force.

    Raises:
        ChallengeError: the pool holds fewer proteins than the rules ask for.
    """
    seed = int(start_block_hash.removeprefix("0x"), 16)
    wanted = rules.protein_selection.num_antitargets
    if wanted > len(pool):
        raise ChallengeError(f"the protein pool has {len(pool)} entries; num_antitargets asks for {wanted}")
    rows = random.Random(seed).sample(range(len(pool)), k=wanted)
    return Challenge(
        targets=(rules.protein_selection.weekly_target,),
        antitargets=tuple(pool[row] for row in rows),
        allowed_reactions=_allowed_reactions(seed, reaction_count, rules),
    )


def _allowed_reactions(seed: int, reaction_count: int, rules: Rules) -> tuple[int | str, ...]:
    if not rules.reaction_filtering.random_valid_reaction:
        return tuple(rules.reaction_filtering.allowed_reactions)
    drawn = seed % (reaction_count + 1)
    return ("savi",) if drawn == 0 else (drawn,)
