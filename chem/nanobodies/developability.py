"""Whether a nanobody looks like one that can be made into a drug: limits on TNP's profile of its modelled structure.

TNP is the Therapeutic Nanobody Profiler; its own colour flags are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """TNP's figures: lengths in residues; compactness, hydrophobic (PSH) and charge patches (PPC, PNC) in its units."""

    total_cdr_length: int
    cdr3_length: int
    cdr3_compactness: float
    psh: float
    ppc: float
    pnc: float


# each field's name for people, smallest and largest allowed value
_LIMITS: Final = {
    "total_cdr_length": ("total CDR length", 20, 39),
    "cdr3_length": ("CDR3 length", 5, 23),
    "cdr3_compactness": ("CDR3 compactness", 0.56, 1.61),
    "psh": ("surface hydrophobicity (PSH)", 73.4, 155.47),
    "ppc": ("positive charge patches (PPC)", None, 1.18),
    "pnc": ("negative charge patches (PNC)", None, 1.88),
}


def shortcomings(profile: Profile) -> list[str]:
    """One phrase per figure that is out of its limits; a figure that is not a number is."""
    found = []
    for field, (name, low, high) in _LIMITS.items():
        value = getattr(profile, field)
        if (low is not None and not value >= low) or not value <= high:
            allowed = f"at most {high:g} is" if low is None else f"{low:g} to {high:g} are"
            found.append(f"{name} is {value:g}; {allowed} allowed")
    return found
