"""Make the bundled recording: ``python -m app.demo.make_recording DIR``.

Everything comes from this file: building blocks from scaffolds and substituents, proteins from a seeded draw (only the
target's sequence is real), submissions sealed to a real quicknet round, scores from a hash. Invented throughout but
for the target and the drand signature; good for watching the machinery, not for judging molecules.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import sqlite3
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import bittensor_core
import yaml
from rdkit import Chem

from app.domain import Challenge
from app.epochs.rules import RuleSet
from app.epochs.rules.october_2025 import October2025, Parameters
from chain.timelock import QUICKNET_CHAIN, seal
from chem.database import CombinatorialDatabase
from chem.names import parse_name
from chem.properties import heavy_atoms, inchikey, parse_smiles, rotatable_bonds
from chem.reactions import AMIDE_SMARTS, BROMIDE_SUZUKI_SMARTS, product_smiles

SEED: Final = 68
EPOCH_LENGTH: Final = 361
END_BLOCK: Final = EPOCH_LENGTH * 18_950

# drand quicknet, published 2023-08-23
ROUND: Final = 1000
SIGNATURE: Final = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
FUTURE_ROUND: Final = 9_000_000_000

# Human histone deacetylase 3 (UniProt O15379), the weekly target of October 2025.
TARGET: Final = "O15379"
TARGET_SEQUENCE: Final = (
    "MAKTVAYFYDPDVGNFHYGAGHPMKPHRLALTHSLVLHYGLYKKMIVFKPYQASQHDMCRFHSEDYIDFLQRVSPTNMQGFTKSLNAFNVGDDCPVFPGL"
    "FEFCSRYTGASLQGATQLNNKICDIAINWAGGLHHAKKFEASGFCYVNDIVIGILELLKYHPRVLYIDIDIHHGDGVQEAFYLTDRVMTVSFHKYGNYFF"
    "PGTGDMYEVGAESGRYYCLNVPLRDGIDDQSYKHLFQPVINQVVDFYQPTCIVLQCGADSLGCDRLGCFNLSIRGHGECVEYVKSFNIPLLVLGGGGYTV"
    "RNVARCWTYETSLLVEEAISEELPYSEYFEYFAPDFTLHPDVSTRIENQNSRQYLDQIRQTIFENLKMLNHAPSVQIHDVPADLLTYDRTDEADAEERGP"
    "EENYSRPEAPNEFYDGDHDNDKESDVEI"
)

SUBSTITUENTS: Final = (
    "C", "CC", "C(C)C", "C1CC1", "C(F)(F)F", "OC", "OCC", "OC(F)(F)F", "F", "C#N", "N(C)C", "C(=O)N", "C(=O)NC",
    "C(=O)OC", "S(=O)(=O)C", "S(=O)(=O)N", "NC(C)=O", "CO", "CCO", "C(C)(C)O", "N1CCOCC1", "N1CCN(C)CC1", "c1ccccc1",
    "c1ccncc1", "OCc1ccccc1", "Cn1cccn1", "C(=O)N1CCCC1", "OC1CCOCC1", "NC1CC1", "OCCOCCOCC",
)  # fmt: skip
BROMIDES: Final = ("Brc1ccc({})cc1", "Brc1cccc({})c1", "Brc1ccc({})nc1", "Brc1ccc2nc({})ccc2c1")
BORONIC_ACIDS: Final = ("OB(O)c1ccc({})cc1", "OB(O)c1cccc({})c1", "OB(O)c1ccc({})nc1", "OB(O)c1cc2cc({})ccc2[nH]1")
BROMO_CHLORIDES: Final = ("Clc1cc(Br)cc({})c1", "Clc1ccc({})cc1Br", "Clc1nc({})ccc1Br")
ACIDS: Final = ("OC(=O)c1ccc({})cc1", "OC(=O)Cc1ccc({})cc1")
AMINES: Final = ("NCc1ccc({})cc1", "C1CNCCN1c1ccc({})cc1")
FIRST_SYNTHONS: Final = ("[1*]c1ccc({})cc1",)
SECOND_SYNTHONS: Final = ("[2*]n1cc({})nn1",)

ROLE_A_TRIAZOLE, ROLE_B_TRIAZOLE, ROLE_ACID, ROLE_AMINE, ROLE_BROMIDE, ROLE_BORONIC, ROLE_BOTH = 1, 2, 4, 8, 16, 32, 64

REACTIONS: Final = (
    (1, "triazole", "", ROLE_A_TRIAZOLE, ROLE_B_TRIAZOLE, None),
    (2, "amide", AMIDE_SMARTS, ROLE_ACID, ROLE_AMINE, None),
    (3, "triazole then amide", "", ROLE_A_TRIAZOLE, ROLE_B_TRIAZOLE | ROLE_ACID, ROLE_AMINE),
    (4, "Suzuki (bromide)", BROMIDE_SUZUKI_SMARTS, ROLE_BROMIDE, ROLE_BORONIC, None),
    (5, "Suzuki (bromide, then chloride)", "", ROLE_BOTH, ROLE_BORONIC, ROLE_BORONIC),
)

BLOCKS: Final = (
    (BROMIDES, ROLE_BROMIDE),
    (BORONIC_ACIDS, ROLE_BORONIC),
    (BROMO_CHLORIDES, ROLE_BOTH),
    (ACIDS, ROLE_ACID),
    (AMINES, ROLE_AMINE),
    (FIRST_SYNTHONS, ROLE_A_TRIAZOLE),
    (SECOND_SYNTHONS, ROLE_B_TRIAZOLE),
)


@dataclass(frozen=True, slots=True)
class Miner:
    """One UID of the recording: what it uploads, where it says it did, and when."""

    uid: int
    content: bytes | None
    path: str
    block: int
    push_time: str


class MoleculeLimits(Protocol):
    """What a good molecule of the recording keeps to."""

    @property
    def min_heavy_atoms(self) -> int: ...
    @property
    def min_rotatable_bonds(self) -> int: ...
    @property
    def max_rotatable_bonds(self) -> int: ...


class Maker:
    """Writes one recording folder."""

    metagraph_size = 24
    end_block = END_BLOCK
    residues = (90, 240)
    """Of the proteins but the target: at least, and fewer than"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = random.Random(SEED)
        self.rule_set: RuleSet = October2025(Parameters())
        self.limits: MoleculeLimits = Parameters().molecule_validation
        self.start_hash = "0x" + hashlib.sha256(b"demo start").hexdigest()
        self.end_hash = "0x" + hashlib.sha256(b"demo end").hexdigest()

    def make(self) -> None:
        """Write every file of the recording."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pool = self._write_proteins()
        self._write_database()
        self.database = CombinatorialDatabase(self.folder / "molecules.sqlite")
        self.good, self.small, self.floppy = self._sorted_products()
        miners = self._miners()
        self._write_miners(miners)
        document = self.rule_set.parameters.model_dump(exclude={"era"})
        self._write("rules.yaml", yaml.safe_dump(document, sort_keys=False))
        self._write_json(
            "recording.json",
            {
                "schema": 1,
                "netuid": 68,
                "network": "demo",
                "epoch_length": EPOCH_LENGTH,
                "start_block": self.end_block - EPOCH_LENGTH,
                "end_block": self.end_block,
                "start_block_hash": self.start_hash,
                "end_block_hash": self.end_hash,
            },
        )
        self._write_json("drand.json", {"chain": QUICKNET_CHAIN, "signatures": {str(ROUND): SIGNATURE}})
        self._write_scores(self.rule_set.challenge(self.start_hash, pool, len(REACTIONS)))

    # -- proteins, building blocks --------------------------------------------------------------------------------

    def _write_proteins(self) -> list[str]:
        draw = random.Random(SEED)
        entries = {TARGET: TARGET_SEQUENCE}
        for number in range(1, 25):
            length = draw.randrange(*self.residues)
            entries[f"DEMO{number:02d}"] = "M" + "".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=length))
        self._write("proteins.fasta", "".join(f">{code}\n{sequence}\n" for code, sequence in entries.items()))
        return list(entries)

    def _write_database(self) -> None:
        path = self.folder / "molecules.sqlite"
        path.unlink(missing_ok=True)
        self.ids: dict[int, list[int]] = {}
        rows = []
        number = 100_000
        for scaffolds, role in BLOCKS:
            for scaffold in scaffolds:
                for substituent in SUBSTITUENTS:
                    number += self.random.randrange(1, 9)
                    smiles = Chem.MolToSmiles(Chem.MolFromSmiles(scaffold.format(substituent)))
                    rows.append((number, smiles, role))
                    self.ids.setdefault(role, []).append(number)
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TABLE reactions(rxn_id INTEGER PRIMARY KEY, name TEXT, smarts TEXT,"
                " roleA INT, roleB INT, roleC INT)"
            )
            connection.execute("CREATE TABLE molecules(mol_id INTEGER PRIMARY KEY, smiles TEXT, role_mask INT)")
            connection.executemany("INSERT INTO reactions VALUES(?,?,?,?,?,?)", REACTIONS)
            connection.executemany("INSERT INTO molecules VALUES(?,?,?)", rows)
        connection.close()

    def _sorted_products(self) -> tuple[list[str], list[str], list[str]]:
        """Names that pass every rule, that have too few heavy atoms, and that have too many rotatable bonds."""
        limits = self.limits
        good: dict[str, str] = {}
        small: list[str] = []
        floppy: list[str] = []
        self.key_of: dict[str, str] = {}
        for name in self._draw_names(2500):
            smiles = self.smiles(name)
            mol = parse_smiles(smiles) if smiles else None
            if mol is None:
                continue
            bonds = rotatable_bonds(mol)
            if heavy_atoms(mol) < limits.min_heavy_atoms:
                small.append(name)
            elif bonds > limits.max_rotatable_bonds:
                floppy.append(name)
            elif bonds >= limits.min_rotatable_bonds:
                self.key_of[name] = inchikey(mol)
                good.setdefault(self.key_of[name], name)
        return list(good.values()), small, floppy

    def _draw_names(self, count: int) -> Iterable[str]:
        names = dict.fromkeys(self._two_blocks() if n % 3 else self._three_blocks() for n in range(count))
        # a long chain at both ends is what makes a molecule floppy
        floppy = [self.ids[role][len(SUBSTITUENTS) - 1] for role in (ROLE_BROMIDE, ROLE_BORONIC)]
        return [*names, f"rxn:4:{floppy[0]}:{floppy[1]}"]

    def _two_blocks(self) -> str:
        return f"rxn:4:{self.random.choice(self.ids[ROLE_BROMIDE])}:{self.random.choice(self.ids[ROLE_BORONIC])}"

    def _three_blocks(self) -> str:
        first, second = self.random.choices(self.ids[ROLE_BORONIC], k=2)
        return f"rxn:5:{self.random.choice(self.ids[ROLE_BOTH])}:{first}:{second}"

    def smiles(self, name: str) -> str | None:
        """The product's SMILES, by the project's own reactions."""
        parsed = parse_name(name)
        assert parsed is not None
        return product_smiles(parsed, self.database.reactions, self.database.building_blocks(parsed.reactants))

    # -- miners ---------------------------------------------------------------------------------------------------

    def _miners(self) -> list[Miner]:
        used = self.good[-1]
        self._write_archive(self.key_of[used])
        fresh = self.good[:-1]
        first, second, third, fourth = (self.random.sample(fresh, 100) for _ in range(4))
        self.scored = list(dict.fromkeys([*first, *second, *third, *fourth]))
        # the blocks of a two-block name may come in either order: another name, the same compound
        twin = next(name for name in first if name.startswith("rxn:4:"))
        _, _, a, b = twin.split(":")
        swapped = f"rxn:4:{b}:{a}"

        def with_one(name: str, index: int) -> list[str]:
            names = self.random.sample([n for n in fresh if n not in {twin, name}], 100)
            names[index] = name
            return names

        identical = with_one(twin, 4)
        identical[81] = swapped
        duplicated = with_one(twin, 4)
        duplicated[55] = twin
        forbidden = f"rxn:2:{self.ids[ROLE_ACID][3]}:{self.ids[ROLE_AMINE][5]}"
        sealed: list[tuple[int, bytes]] = [
            (1, self._sealed(1, first)),
            (2, self._sealed(2, second)),
            (3, self._sealed(3, third)),
            # two miners with the same molecules: the earlier push wins the tie
            (4, self._sealed(4, fourth)),
            (5, self._sealed(5, fourth)),
            (6, self._sealed(6, duplicated)),
            (7, self._sealed(7, with_one(forbidden, 12))),
            (8, self._sealed(8, with_one(f"rxn:4:{self.ids[ROLE_BROMIDE][0]}:999999999", 99))),
            (9, self._sealed(9, with_one(self.small[0], 31))),
            (10, self._sealed(10, with_one(self.floppy[0], 60))),
            (11, self._sealed(11, with_one(used, 7))),
            (12, self._sealed(12, identical)),
            (13, self._sealed(13, third[:99])),
            (14, self._sealed(1, second)),
            (15, repr((FUTURE_ROUND, seal(b"15:" + ",".join(second).encode(), ROUND))).encode()),
            (16, repr((ROUND, bytes(self.random.randbytes(400)))).encode()),
            (17, b"__import__('os').system('true')"),
            (18, repr((ROUND, bytes(30_000))).encode()),
        ]
        miners = [self._miner(uid, content) for uid, content in sealed]
        nobody = self._miner(19, b"never uploaded")
        miners.append(Miner(19, None, nobody.path, nobody.block, nobody.push_time))
        changed = self._miner(20, self._sealed(20, first))
        miners.append(Miner(20, (changed.content or b"") + b"\n", changed.path, changed.block, changed.push_time))
        miners.append(Miner(21, None, "../../etc/passwd", self.end_block - 50, ""))
        late = self._miner(22, self._sealed(22, third))
        miners.append(Miner(22, late.content, late.path, self.end_block - 5, late.push_time))
        return miners

    def _sealed(self, uid: int, names: list[str]) -> bytes:
        return repr((ROUND, seal(f"{uid}:{','.join(names)}".encode(), ROUND))).encode()

    def _miner(self, uid: int, content: bytes) -> Miner:
        digest = hashlib.sha256(content).hexdigest()[:20]
        # UIDs 4 and 5 committed in the same block, so their push times decide
        block = self.end_block - 200 + (4 if uid in {4, 5} else uid)
        minute = 40 - uid if uid in {4, 5} else uid
        return Miner(
            uid, content, f"miner{uid}/submissions/main/nova/{digest}.txt", block, f"2025-10-28T14:{minute:02d}:00Z"
        )

    def _write_miners(self, miners: list[Miner]) -> None:
        neurons = []
        for uid in range(self.metagraph_size):
            hotkey, coldkey = (_address(f"{kind} {uid}") for kind in ("hotkey", "coldkey"))
            neurons.append(
                {"uid": uid, "hotkey": hotkey, "coldkey": coldkey, "stake": 100.0 * uid, "validator_permit": uid == 0}
            )
        self._write_json("metagraph.json", neurons)
        commitments = [
            {"hotkey": neurons[miner.uid]["hotkey"], "block": miner.block, "data": miner.path} for miner in miners
        ]
        self._write_json("commitments.json", commitments)
        for miner in miners:
            if miner.content is not None:
                self._write(f"github/contents/{miner.path}", miner.content)
        self._write_json("github/push_times.json", {m.path: m.push_time for m in miners if m.push_time})

    def _write_archive(self, key: str) -> None:
        path = self.folder / "archive" / f"{TARGET}_molecules.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"SMILES,InChI_Key,Epoch\n,{key},18900\n", encoding="utf-8")

    # -- scores ---------------------------------------------------------------------------------------------------

    def _write_scores(self, challenge: Challenge) -> None:
        molecules = [smiles for name in self.scored if (smiles := self.smiles(name))]
        (self.folder / "scores").mkdir(exist_ok=True)
        self._write_table(
            "scores/psichic.csv",
            ["protein", "smiles", "predicted_binding_affinity"],
            (
                (protein, smiles, round(unit(protein, smiles) * 3 + (5.5 if protein == TARGET else 4.0), 4))
                for protein in challenge.proteins
                for smiles in molecules
            ),
        )
        self._write_table(
            "scores/boltz.csv",
            ["smiles", "affinity_probability_binary", "affinity_pred_value"],
            ((s, round(unit("boltz", s), 4), round(unit("value", s) * 4 - 3, 4)) for s in molecules),
        )

    def _write_table(self, name: str, header: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def _write_json(self, name: str, document: Any) -> None:
        self._write(name, json.dumps(document, indent=1) + "\n")


def unit(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:6], "big") / 2**48


def _address(seed: str) -> str:
    encode: Callable[[bytes, int], str] = bittensor_core.ss58_encode
    return encode(hashlib.sha256(seed.encode()).digest(), 42)


if __name__ == "__main__":
    Maker(Path(sys.argv[1])).make()
