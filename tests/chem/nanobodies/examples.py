"""A typical VHH, by its regions, and a germline that it matches perfectly."""

from __future__ import annotations

from chem.nanobodies.nativeness import GermlineHit
from chem.nanobodies.numbering import Numbering

REGIONS = Numbering(
    "QVQLVESGGGLVQAGGSLRLSCAAS",
    "GRTFSSYA",
    "MGWFRQAPGKEREFVAA",
    "ISWSGGST",
    "YYADSVKGRFTISRDNAKNTVYLQMNSLKPEDTAVYYC",
    "AADSTIYASYYECGHGLS",
    "WGQGTQVTVSS",
)
"""Framework 2 has F, E, R, F at the hallmark positions; CDR3 has the favoured 18 residues."""

V_PART = "".join(REGIONS.regions[:5])
PERFECT = GermlineHit("IGHV3S53*01", 1.0, 1, len(V_PART), V_PART, V_PART)
