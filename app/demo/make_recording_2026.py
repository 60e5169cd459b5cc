"""Make the bundled recording of August 2026: ``python -m app.demo.make_recording_2026 DIR``.

Two tracks: molecules as in the recording of 2025, and nanobodies with one framework and random loops. What IgBLAST,
abnumber, TNP, Boltz-2 and BoltzGen would have found is invented; only interleukin-6 and the drand signature are real.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import Final

from app.demo.make_recording import (
    EPOCH_LENGTH,
    REACTIONS,
    ROLE_ACID,
    ROLE_AMINE,
    ROLE_BORONIC,
    ROLE_BROMIDE,
    ROUND,
    SEED,
    Maker,
    Miner,
    unit,
)
from app.domain import Challenge
from app.epochs.rules.august_2026 import August2026
from app.epochs.rules.august_2026_parameters import Parameters
from chem.nanobodies.developability import Profile
from chem.nanobodies.nativeness import GermlineHit, GermlineHits
from chem.nanobodies.numbering import Numbering
from chem.nanobodies.ranking import METRICS
from chem.nanobodies.sequence import sequence_hash
from chem.nanobodies.tools import Figures
from chem.properties import element_symbols, parse_smiles

MOLECULE_TARGET: Final = "Q9UQM7"
NANOBODY_TARGET: Final = "P05231"

# Human interleukin-6 (UniProt P05231).
INTERLEUKIN_6: Final = (
    "MNSFSTSAFGPVAFSLGLLLVLPAAFPAPVPPGEDSKDVAAPHRQPLTSSERIDKQIRYILDGISALRKETCNKSNMCESSKEALAENNLNLPKMAEKDG"
    "CFQSGFNEETCLVKIITGLLEFEVYLEYLQNRFESSEEQARAVQMSTKVLIQFLQKKAKNLDAITTPDPTTNASLLTKLQAQNQWLQDMTTHLILRSFKE"
    "FLQSSLRALRQM"
)

# The reaction that the epoch draws, of two building blocks.
DRAWN: Final = 4


class Maker2026(Maker):
    """Writes a recording with two tracks."""

    # the override pays UID 42
    metagraph_size = 48
    end_block = EPOCH_LENGTH * 19_800

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rule_set = August2026(Parameters())
        self.limits = Parameters().molecule_requirements
        self.start_hash = next(
            found
            for number in range(100)
            if int(found := "0x" + hashlib.sha256(f"demo 2026 {number}".encode()).hexdigest(), 16) % len(REACTIONS) + 1
            == DRAWN
        )

    def _write_proteins(self) -> list[str]:
        draw = random.Random(SEED + 1)
        entries = {
            MOLECULE_TARGET: "M" + "".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=477)),
            NANOBODY_TARGET: INTERLEUKIN_6,
        }
        self._write("proteins.fasta", "".join(f">{code}\n{sequence}\n" for code, sequence in entries.items()))
        return list(entries)

    def _two_blocks(self) -> str:
        return f"rxn:{DRAWN}:{self.random.choice(self.ids[ROLE_BROMIDE])}:{self.random.choice(self.ids[ROLE_BORONIC])}"

    def _three_blocks(self) -> str:
        return self._two_blocks()

    def _miners(self) -> list[Miner]:
        clean = [name for name in self.good if not self._has_sulfur(name)]
        sulfur = next(name for name in self.good if self._has_sulfur(name))
        used, archived, *fresh = clean
        self._write_histories(used, archived)
        good = [name for name in fresh if self._is_new(name, archived)][:8]
        similar = next(name for name in fresh if not self._is_new(name, archived))
        bodies = [_nanobody(self.random, 15) for _ in range(8)]
        known, bare, sticky = (_nanobody(self.random, 14) for _ in range(3))
        self.nanobodies = dict.fromkeys(bodies, "") | {bare: "not human", sticky: "sticky", known: "archived"}
        self._write_nanobody_archive(known)
        self._write_findings()
        first, second = self.random.sample(good[:2], 2)
        forbidden = f"rxn:2:{self.ids[ROLE_ACID][3]}:{self.ids[ROLE_AMINE][5]}"
        payloads = {
            1: f"{good[0]}|{bodies[0]}",
            2: f"{good[1]}|{bodies[1]}",
            3: f"{good[2]}|~",
            4: f"~|{bodies[2]}",
            # both were seen before it: the one that UID 1 brought counts, not the one it names first
            5: f"{good[1]},{good[0]}|{bodies[3]}",
            # one track is refused, the other stands
            6: f"{forbidden}|{bodies[4]}",
            # what was accepted before the list ended stays
            7: f"{good[3]},rxn:{DRAWN}:{self.ids[ROLE_BROMIDE][0]}:999999999,{good[4]}|~",
            # a molecule too similar to an archived one is left out alone
            8: f"{similar},{good[5]}|{bodies[5]}",
            9: f"{sulfur}|{'QVQLVESGGG' * 5}",
            10: f"{used}|{known}",
            11: f"{first},{second}",
            12: "~|~",
            13: f"{good[6]}|{bare}",
            14: f"{good[7]}|{sticky}",
            # the same two entries as UID 1, in a later block
            15: f"{good[0]}|{bodies[0]}",
            16: f"{good[6]},~|{bodies[6]}",
        }
        self.scored = good
        sealed = [(uid, self._sealed(uid, [text])) for uid, text in payloads.items()]
        sealed += [
            (17, self._sealed(1, [payloads[2]])),
            (18, b"__import__('os').system('true')"),
            (19, repr((ROUND, bytes(400))).encode()),
        ]
        miners = [self._miner(uid, content) for uid, content in sealed]
        nobody = self._miner(20, b"never uploaded")
        return [*miners, Miner(20, None, nobody.path, nobody.block, nobody.push_time)]

    def _has_sulfur(self, name: str) -> bool:
        return "S" in element_symbols(parse_smiles(self.smiles(name) or ""))

    def _is_new(self, name: str, archived: str) -> bool:
        from chem.history import tanimoto

        first, second = (parse_smiles(self.smiles(one) or "") for one in (name, archived))
        return tanimoto(first, second) < Parameters().molecule_requirements.max_similarity_to_historical

    def _write_histories(self, used: str, archived: str) -> None:
        self._write_table(
            f"archive/{MOLECULE_TARGET}_molecules.csv",
            ["Molecule_ID", "SMILES", "InChI_Key"],
            [
                # a row that RDKit cannot read
                ("broken", "C1CC(", ""),
                # its InChIKey is known, its structure is not
                (used, "", self.key_of[used]),
                (archived, self.smiles(archived), self.key_of[archived]),
            ],
        )

    def _write_nanobody_archive(self, known: str) -> None:
        names = [name for metrics in METRICS.values() for name in metrics]
        self._write_table(
            f"archive/{NANOBODY_TARGET}_nanobodies.csv",
            ["sequence", "sequence_hash", *names],
            # only its hash: an archive in which nothing else resembles a new sequence
            [("", sequence_hash(known), *(round(unit(known, name), 3) for name in names))],
        )

    def _write_findings(self) -> None:
        """The tables of what the programs would have found out of each sequence."""
        figures = Figures()
        for sequence, trait in self.nanobodies.items():
            key = sequence_hash(sequence)
            figures.numbering[key] = _numbering(sequence)
            figures.germline[key] = _germline(sequence, trait)
            figures.profile[key] = _profile(sequence, trait)
        for name, text in figures.tables().items():
            self._write(name, text)

    def _write_scores(self, challenge: Challenge) -> None:
        molecules = dict.fromkeys(smiles for name in self.scored if (smiles := self.smiles(name)))
        self._write_table(
            "scores/boltz.csv",
            ["smiles", "affinity_probability_binary", "affinity_pred_value"],
            ((s, round(unit("boltz", s), 4), round(unit("value", s) * 4 - 3, 4)) for s in molecules),
        )
        names = [name for metrics in METRICS.values() for name in metrics]
        self._write_table(
            "scores/boltzgen.csv",
            ["protein", "sequence", *names],
            ((NANOBODY_TARGET, body, *(_metric(name, body) for name in names)) for body in self.nanobodies),
        )


def _nanobody(draw: random.Random, loop: int) -> str:
    return "".join(_regions("".join(draw.choices("ADEGNPRSTY", k=loop)), draw.choice("ST")).regions)


def _regions(loop: str, first: str) -> Numbering:
    return Numbering(
        fr1="QVQLVESGGGLVQPGGSLRLSCAAS",
        cdr1=f"GFTF{first}SYA",
        fr2="MGWFRQAPGKEREFVAA",
        cdr2="ISWSGGST",
        fr3="YYADSVKGRFTISRDNAKNTVYLQMNSLKPEDTAVYYC",
        cdr3=f"AA{loop}",
        fr4="WGQGTQVTVSS",
    )


def _numbering(sequence: str) -> Numbering:
    loop = sequence[len("".join(_regions("", "S").regions[:5])) + 2 : -len("WGQGTQVTVSS")]
    found = _regions(loop, sequence[29])
    assert "".join(found.regions) == sequence
    return found


def _germline(sequence: str, trait: str) -> GermlineHits:
    germline = "".join(_numbering(sequence).regions[:5])

    def hit(call: str, identity: float) -> GermlineHit:
        return GermlineHit(call, identity, 1, len(germline), germline, _mutated(germline, identity))

    return GermlineHits(hit("IGHV3S53*01", 0.91), hit("IGHV3-23*04", 0.62 if trait == "not human" else 0.86))


def _mutated(germline: str, identity: float) -> str:
    """The sequence with some of its residues changed, evenly."""
    step = round(1 / (1 - identity))
    return "".join("A" if place % step == step - 1 else residue for place, residue in enumerate(germline))


def _profile(sequence: str, trait: str) -> Profile:
    loop = len(_numbering(sequence).cdr3)
    return Profile(
        total_cdr_length=16 + loop,
        cdr3_length=loop,
        cdr3_compactness=round(0.7 + 0.6 * unit("compact", sequence), 3),
        psh=171.0 if trait == "sticky" else round(90 + 40 * unit("psh", sequence), 2),
        ppc=round(unit("ppc", sequence), 3),
        pnc=round(unit("pnc", sequence), 3),
    )


def _metric(name: str, sequence: str) -> float:
    share = unit(name, sequence)
    if name.startswith("plip") or name == "liability_num_violations":
        return float(round(share * 6))
    return round(share * {"delta_sasa_refolded": 900, "liability_score": 40}.get(name, 10 if "pae" in name else 1), 3)


if __name__ == "__main__":
    Maker2026(Path(sys.argv[1])).make()
