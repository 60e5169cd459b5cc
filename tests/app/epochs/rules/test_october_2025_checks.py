"""Each rule of one submission, in its order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.domain import Challenge, RejectionCode, SubmissionRejected
from app.epochs.rules.october_2025 import October2025, Parameters
from app.store.records import Findings
from chain.sources import ArchiveUnavailable
from chem.archive import ArchiveUnreadable, read_archive
from chem.database import CombinatorialDatabase, DatabaseMalformed
from chem.diversity import maccs_entropy, smiles_entropy
from chem.properties import heavy_atoms_by_capitals

SUZUKI = "[#6:1][Br].[#6:2][B]([OH])[OH]>>[#6:1][#6:2]"
BROMIDES = {1: "Brc1ccc(OC)cc1", 2: "Brc1ccc(CC)nc1", 3: "Brc1ccc(OCCOCCOCC)cc1", 4: "Brc1ccccc1"}
ACIDS = {11: "OB(O)c1ccc(C(=O)NC)cc1", 12: "OB(O)c1ccc(OCC)cc1", 13: "OB(O)c1ccc(OCCOCCOCC)cc1", 14: "OB(O)c1ccccc1"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CombinatorialDatabase]:
    path = tmp_path / "m.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE reactions(rxn_id INTEGER PRIMARY KEY, smarts, roleA, roleB, roleC)")
    connection.execute("CREATE TABLE molecules(mol_id INTEGER PRIMARY KEY, smiles, role_mask)")
    connection.execute("INSERT INTO reactions VALUES(4, ?, 16, 32, NULL)", (SUZUKI,))
    connection.executemany("INSERT INTO molecules VALUES(?, ?, 16)", BROMIDES.items())
    connection.executemany("INSERT INTO molecules VALUES(?, ?, 32)", ACIDS.items())
    connection.commit()
    connection.close()
    opened = CombinatorialDatabase(path)
    yield opened
    opened.close()


@dataclass(frozen=True)
class Against:
    """The rules, and the archive: InChIKeys, or None where it is unavailable."""

    rules: October2025
    archive: frozenset[str] | None

    def judge(self, names: list[str], database: CombinatorialDatabase) -> Findings:
        """What the rules say of one submission."""
        inspect = self.rules.inspection(self._facts(database), Challenge(("O15379",), (), (4, 5)))
        return inspect(1, {"molecule": tuple(names)})

    def _facts(self, database: CombinatorialDatabase) -> Any:
        archive = self.archive

        class Facts:
            def molecule_database(self) -> Path:
                return database.path

            def file(self, name: str) -> Path | None:
                assert name == "archive/O15379_molecules.csv"
                if archive is None:
                    raise ArchiveUnavailable("no archive")
                path = database.path.with_name("archive.csv")
                path.write_text("".join(f"{line}\n" for line in ("InChI_Key", *sorted(archive))))
                return path if archive else None

        return Facts()


def against(archive: frozenset[str] | None = frozenset(), quirks: list[str] | None = None, **limits: Any) -> Against:
    rules = Parameters.model_validate(
        {
            "molecule_validation": {"min_heavy_atoms": 14, "num_molecules": 2, **limits},
            "archive_unavailable": "reject",
            "quirks": quirks or [],
        }
    )
    return Against(October2025(rules), archive)


def judge(names: list[str], database: CombinatorialDatabase, rules: Against) -> Findings:
    return rules.judge(names, database)


def refusal(names: list[str], database: CombinatorialDatabase, rules: Against) -> tuple[str, str | None, int | None]:
    with pytest.raises(SubmissionRejected) as caught:
        judge(names, database, rules)
    rejection = caught.value.rejection
    assert rejection.message
    return rejection.code.value, rejection.molecule, rejection.index


def test_a_valid_submission(database: CombinatorialDatabase) -> None:
    found = judge(["rxn:4:1:11", "rxn:4:2:12"], database, against())
    assert [m.smiles for m in found.molecules] == ["CNC(=O)c1ccc(-c2ccc(OC)cc2)cc1", "CCOc1ccc(-c2ccc(CC)nc2)cc1"]
    assert all(len(m.inchikey) == 27 for m in found.molecules)
    assert found.entropy == pytest.approx(smiles_entropy([m.smiles for m in found.molecules]))


@pytest.mark.parametrize(
    ("names", "code", "index"),
    [
        (["rxn:4:1:11", "rxn:4:1:11"], RejectionCode.DUPLICATE_NAMES, 1),
        (["rxn:4:1:11", "rxn:2:1:11"], RejectionCode.REACTION_NOT_ALLOWED, 1),
        (["rxn:4:1:11", "S_77"], RejectionCode.REACTION_NOT_ALLOWED, 1),
        (["rxn:4:1:11", "rxn:4:1:99"], RejectionCode.NOT_IN_DATABASE, 1),
        (["rxn:5:1:11"], RejectionCode.NOT_IN_DATABASE, 0),
        (["rxn:4:1:11", "rxn:4:4:14"], RejectionCode.TOO_FEW_HEAVY_ATOMS, 1),
        (["rxn:4:3:13"], RejectionCode.ROTATABLE_BONDS, 0),
        (["rxn:4:1:11", "rxn:4:11:1"], RejectionCode.CHEMICALLY_IDENTICAL, 1),
    ],
)
def test_each_refusal(names: list[str], code: RejectionCode, index: int, database: CombinatorialDatabase) -> None:
    assert refusal(names, database, against()) == (code.value, names[index], index)


def test_a_used_molecule_is_refused_with_its_key(database: CombinatorialDatabase) -> None:
    key = judge(["rxn:4:1:11"], database, against()).molecules[0].inchikey
    assert refusal(["rxn:4:2:12", "rxn:4:1:11"], database, against(frozenset({key}))) == (
        "already_used",
        "rxn:4:1:11",
        1,
    )
    # archive_unavailable: reject
    assert refusal(["rxn:4:1:11"], database, against(None))[0] == "already_used"


def test_the_first_molecule_that_fails_wins_whatever_its_rule(database: CombinatorialDatabase) -> None:
    names = ["rxn:4:3:13", "rxn:2:1:1", "rxn:4:1:99"]
    assert refusal(names, database, against()) == ("rotatable_bonds", "rxn:4:3:13", 0)


def test_one_molecule_fails_by_the_first_rule_in_order(database: CombinatorialDatabase) -> None:
    few_and_floppy = against(min_heavy_atoms=200)
    assert refusal(["rxn:4:3:13"], database, few_and_floppy)[0] == "too_few_heavy_atoms"


def test_bounds_are_inclusive(database: CombinatorialDatabase) -> None:
    # 4-methoxy-4'-(N-methylcarbamoyl)biphenyl: 18 heavy atoms, 3 rotatable bonds
    judge(["rxn:4:1:11"], database, against(min_heavy_atoms=18, min_rotatable_bonds=3, max_rotatable_bonds=3))
    assert refusal(["rxn:4:1:11"], database, against(min_heavy_atoms=19))[0] == "too_few_heavy_atoms"
    assert refusal(["rxn:4:1:11"], database, against(min_rotatable_bonds=4))[0] == "rotatable_bonds"
    assert refusal(["rxn:4:1:11"], database, against(max_rotatable_bonds=2))[0] == "rotatable_bonds"


def test_heavy_atoms_by_capitals_counts_symbols_of_the_text(database: CombinatorialDatabase) -> None:
    assert heavy_atoms_by_capitals("c1ccccc1Cl") == 1
    assert heavy_atoms_by_capitals("CC(=O)[NH]Br") == 5
    assert heavy_atoms_by_capitals("Cn1cnc2c1") == 1
    quirky = against(quirks=["heavy_atoms_by_capitals"], min_heavy_atoms=7)
    assert refusal(["rxn:4:1:11"], database, quirky)[0] == "too_few_heavy_atoms"


def test_entropy_is_zero_for_alike_and_bounded_by_one() -> None:
    assert smiles_entropy(["CCO"]) == 0.0
    assert smiles_entropy(["CCO", "OCC"]) == 0.0
    assert maccs_entropy([]) == 0.0
    assert smiles_entropy(["nonsense"]) is None
    mixed = smiles_entropy(["CCO", "c1ccncc1"])
    assert mixed is not None
    # every bit that one of two molecules has contributes one bit of entropy
    from rdkit.Chem import MolFromSmiles, rdMolDescriptors

    first, second = (
        set(rdMolDescriptors.GetMACCSKeysFingerprint(MolFromSmiles(s)).GetOnBits()) for s in ("CCO", "c1ccncc1")
    )
    bits = len(first ^ second)
    assert mixed == pytest.approx(bits / 167)


def test_a_database_without_its_tables_is_one_clear_error(tmp_path: Path) -> None:
    missing = tmp_path / "none.sqlite"
    with pytest.raises(DatabaseMalformed, match="does not exist"):
        CombinatorialDatabase(missing)
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, whatever its name says" * 50)
    with pytest.raises(DatabaseMalformed, match="cannot be read"):
        CombinatorialDatabase(text)
    empty = tmp_path / "empty.sqlite"
    sqlite3.connect(empty).close()
    empty.touch()
    with pytest.raises(DatabaseMalformed, match="no table 'reactions'"):
        CombinatorialDatabase(empty)
    partial = tmp_path / "partial.sqlite"
    connection = sqlite3.connect(partial)
    connection.execute("CREATE TABLE reactions(rxn_id, smarts, roleA, roleB, roleC)")
    connection.execute("CREATE TABLE molecules(mol_id, smiles)")
    connection.close()
    with pytest.raises(DatabaseMalformed, match=r"lacks column.*role_mask"):
        CombinatorialDatabase(partial)


def test_ids_past_any_table_are_not_there(database: CombinatorialDatabase) -> None:
    assert database.building_blocks([1, 10**30]).keys() == {1}
    assert len(database.building_blocks(range(5000))) == 8


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert read_archive(path) == frozenset()
    path.write_text("SMILES,InChI_Key\nC,K1\n,K2\n,\n")
    assert read_archive(path) == {"K1", "K2"}
    path.write_text("SMILES\nC\n")
    with pytest.raises(ArchiveUnreadable, match="InChI_Key"):
        read_archive(path)
    path.write_bytes(b"InChI_Key\n\xff\xfe\n")
    with pytest.raises(ArchiveUnreadable, match="cannot be read"):
        read_archive(path)


def test_compounds_without_an_inchikey_are_told_apart_by_their_smiles(tmp_path: Path) -> None:
    """A dummy atom has no InChI, so both keys are empty; only the same SMILES is then the same compound."""
    path = tmp_path / "m.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE reactions(rxn_id INTEGER PRIMARY KEY, smarts, roleA, roleB, roleC)")
    connection.execute("CREATE TABLE molecules(mol_id INTEGER PRIMARY KEY, smiles, role_mask)")
    connection.execute("INSERT INTO reactions VALUES(4, ?, 1, 2, NULL)", (SUZUKI,))
    connection.executemany(
        "INSERT INTO molecules VALUES(?, ?, ?)",
        [(1, "*CCOc1ccc(Br)cc1CCN", 1), (2, "*C(C)NC(=O)c1ccc(Br)cc1C", 1), (3, "NCCc1cc(Br)ccc1OCC*", 1),
         (11, "OB(O)c1ccc(C(=O)NC2CCCCC2)cc1", 2)],
    )  # fmt: skip
    connection.commit()
    connection.close()
    database = CombinatorialDatabase(path)
    try:
        found = judge(["rxn:4:1:11", "rxn:4:2:11"], database, against())
        assert [molecule.inchikey for molecule in found.molecules] == ["", ""]
        code, molecule, index = refusal(["rxn:4:1:11", "rxn:4:3:11"], database, against())
        assert (code, molecule, index) == ("chemically_identical", "rxn:4:3:11", 1)
    finally:
        database.close()
