"""Up to 32 ligand graphs in fixed-capacity rows, so that every launch has the same shape (design: batch independence).

A ligand's numbers must not depend on its batch-mates. Sums are therefore taken inside one ligand's own rows, and the
row count of every matrix product is a constant of the capacity class, never of the batch: the same library kernel
runs, and a row's bits do not depend on where in the batch it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gpu.psichic.ligand import ATOM_FEATURES, LigandGraph


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows reserved for one packed batch."""

    slots: int
    atoms: int
    bonds: int
    cliques: int
    incidences: int

    def holds(self, ligands: Sequence[LigandGraph]) -> bool:
        """Whether these ligands fit together."""
        return (
            len(ligands) <= self.slots
            and sum(g.n_atoms for g in ligands) <= self.atoms
            and sum(g.n_bonds for g in ligands) <= self.bonds
            and sum(g.n_cliques for g in ligands) <= self.cliques
            and sum(g.membership.shape[1] for g in ligands) <= self.incidences
        )

    def enlarged_for(self, ligand: LigandGraph) -> Capacity:
        """The smallest doubling of this capacity that holds the ligand alone: a function of the ligand only."""
        grown = self
        while not grown.holds([ligand]):
            grown = Capacity(grown.slots, grown.atoms * 2, grown.bonds * 2, grown.cliques * 2, grown.incidences * 2)
        return grown


def drug_like_capacity(slots: int) -> Capacity:
    """Room for ``slots`` ligands of 40 heavy atoms on average; 27 is usual."""
    return Capacity(slots=slots, atoms=40 * slots, bonds=92 * slots, cliques=44 * slots, incidences=92 * slots)


def exact_capacity(ligand: LigandGraph) -> Capacity:
    """One slot with exactly the ligand's rows: what the CPU, which works pair by pair, uses."""
    return Capacity(1, ligand.n_atoms, ligand.n_bonds, ligand.n_cliques, ligand.membership.shape[1])


@dataclass(frozen=True, slots=True)
class LigandBatch:
    """Packed ligands: rows of all slots one after another, unused rows at the end.

    Pointers are CSR offsets, monotone; an unused slot or row has an empty range.
    """

    atom_type: Tensor
    """atoms"""
    atom_slot: Tensor
    """atoms: the slot each belongs to"""
    atom_ptr: Tensor
    """slots + 1"""
    bond_ptr: Tensor
    """atoms + 1: incoming bonds of each atom"""
    bond_source: Tensor
    """bonds"""
    bond_target: Tensor
    """bonds"""
    bond_type: Tensor
    """bonds"""
    clique_type: Tensor
    """cliques"""
    clique_slot: Tensor
    """cliques"""
    clique_ptr: Tensor
    """slots + 1"""
    clique_atom_ptr: Tensor
    """cliques + 1: members of each clique"""
    clique_atom: Tensor
    """incidences, by clique"""
    atom_clique_ptr: Tensor
    """atoms + 1: cliques of each atom"""
    atom_clique: Tensor
    """incidences, by atom"""
    atom_feature: Tensor
    """atoms × 43, uint8"""


def _lengths(capacity: Capacity) -> dict[str, int]:
    """Length of each int32 section of a batch, in field order."""
    return {
        "atom_type": capacity.atoms,
        "atom_slot": capacity.atoms,
        "atom_ptr": capacity.slots + 1,
        "bond_ptr": capacity.atoms + 1,
        "bond_source": capacity.bonds,
        "bond_target": capacity.bonds,
        "bond_type": capacity.bonds,
        "clique_type": capacity.cliques,
        "clique_slot": capacity.cliques,
        "clique_ptr": capacity.slots + 1,
        "clique_atom_ptr": capacity.cliques + 1,
        "clique_atom": capacity.incidences,
        "atom_clique_ptr": capacity.atoms + 1,
        "atom_clique": capacity.incidences,
    }


_ALIGN: Final = 16


class PackedBuffer:
    """One flat byte buffer that holds a :class:`LigandBatch`; a batch reaches the device in one copy."""

    def __init__(self, capacity: Capacity, device: torch.device, *, pinned: bool = False) -> None:
        self.capacity = capacity
        self._offsets: dict[str, tuple[int, int]] = {}
        position = 0
        for name, length in _lengths(capacity).items():
            self._offsets[name] = (position, 4 * length)
            position += -(-4 * length // _ALIGN) * _ALIGN
        self._offsets["atom_feature"] = (position, capacity.atoms * ATOM_FEATURES)
        position += capacity.atoms * ATOM_FEATURES
        self.bytes = torch.zeros(position, dtype=torch.uint8, device=device, pin_memory=pinned)
        views = {}
        for name, (start, size) in self._offsets.items():
            section = self.bytes[start : start + size]
            is_feature = name == "atom_feature"
            views[name] = section.view(capacity.atoms, ATOM_FEATURES) if is_feature else section.view(torch.int32)
        self.batch = LigandBatch(**views)

    def fill(self, ligands: Sequence[LigandGraph]) -> None:
        """Write these ligands; the buffer must lie in host memory and have room for them."""
        section = {field.name: getattr(self.batch, field.name).numpy() for field in fields(LigandBatch)}
        capacity = self.capacity
        atoms = bonds = cliques = incidences = 0
        section["atom_feature"].fill(0)
        for slot, g in enumerate(ligands):
            n, b, c, a = g.n_atoms, g.n_bonds, g.n_cliques, g.membership.shape[1]
            section["atom_type"][atoms : atoms + n] = g.atom_type
            section["atom_feature"][atoms : atoms + n] = g.atom_feature
            section["atom_slot"][atoms : atoms + n] = slot
            section["atom_ptr"][slot] = atoms
            section["bond_target"][bonds : bonds + b] = g.bond_index[0] + atoms
            section["bond_source"][bonds : bonds + b] = g.bond_index[1] + atoms
            section["bond_type"][bonds : bonds + b] = g.bond_type
            section["bond_ptr"][atoms : atoms + n] = bonds + _starts(g.bond_index[0], n)
            section["clique_type"][cliques : cliques + c] = g.clique_type
            section["clique_slot"][cliques : cliques + c] = slot
            section["clique_ptr"][slot] = cliques
            by_clique = np.argsort(g.membership[1], kind="stable")
            section["clique_atom"][incidences : incidences + a] = g.membership[0][by_clique] + atoms
            section["clique_atom_ptr"][cliques : cliques + c] = incidences + _starts(g.membership[1], c)
            section["atom_clique"][incidences : incidences + a] = g.membership[1] + cliques
            section["atom_clique_ptr"][atoms : atoms + n] = incidences + _starts(g.membership[0], n)
            atoms, bonds, cliques, incidences = atoms + n, bonds + b, cliques + c, incidences + a
        used = len(ligands)
        section["atom_ptr"][used:] = atoms
        section["clique_ptr"][used:] = cliques
        section["bond_ptr"][atoms:] = bonds
        section["clique_atom_ptr"][cliques:] = incidences
        section["atom_clique_ptr"][atoms:] = incidences
        last = capacity.slots - 1
        for name, start, rest in (
            ("atom_type", atoms, 0),
            ("atom_slot", atoms, last),
            ("bond_source", bonds, 0),
            ("bond_target", bonds, 0),
            ("bond_type", bonds, 0),
            ("clique_type", cliques, 0),
            ("clique_slot", cliques, last),
            ("clique_atom", incidences, 0),
            ("atom_clique", incidences, 0),
        ):
            section[name][start:] = rest


def _starts(group: np.ndarray, n: int) -> np.ndarray:
    """Where each of n groups starts, given every entry's group."""
    counts = np.bincount(group, minlength=n)
    return np.cumsum(counts) - counts


def portions(ligands: Sequence[LigandGraph], capacity: Capacity) -> Iterator[tuple[list[int], Capacity]]:
    """Positions of the ligands that travel together, and in which capacity: full batches in order.

    A ligand too large for the usual capacity travels alone in the one that its own size asks for.
    """
    current: list[int] = []
    for position, ligand in enumerate(ligands):
        if not capacity.holds([ligand]):
            yield [position], capacity.enlarged_for(ligand)
            continue
        if not capacity.holds([*(ligands[i] for i in current), ligand]):
            yield current, capacity
            current = []
        current.append(position)
    if current:
        yield current, capacity
