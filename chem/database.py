"""The combinatorial database: reactions and building blocks, read by primary key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from app.domain import ValidatorError

# SQLite's default limit of bound variables is 999 in the oldest builds still met.
_IDS_PER_QUERY: Final = 900

_COLUMNS: Final = {
    "reactions": {"rxn_id", "smarts", "roleA", "roleB", "roleC"},
    "molecules": {"mol_id", "smiles", "role_mask"},
}


class DatabaseMalformed(ValidatorError):
    """The combinatorial database lacks a table or a column, or is not SQLite."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """One row of ``reactions``. A role is a bit mask; ``smarts`` may be empty where the code names the reaction."""

    reaction_id: int
    smarts: str
    role_a: int | None
    role_b: int | None
    role_c: int | None


@dataclass(frozen=True, slots=True)
class BuildingBlock:
    """One row of ``molecules``: a reactant and the roles it can serve."""

    smiles: str
    role_mask: int

    def serves(self, role: int | None) -> bool:
        """Whether *all* the role's bits are set."""
        return role is not None and self.role_mask & role == role


class CombinatorialDatabase:
    """Read-only view of ``molecules.sqlite``.

    Raises:
        DatabaseMalformed: the file is missing, is not SQLite, or lacks a table or column.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DatabaseMalformed(f"combinatorial database {path} does not exist; fetch or record it first")
        # immutable: a recording may lie on a read-only file system, and the file never changes under us
        self._connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
        try:
            self._check_columns()
            self.reactions: Mapping[int, Reaction] = {
                int(row[0]): Reaction(int(row[0]), row[1] or "", row[2], row[3], row[4])
                for row in self._connection.execute("SELECT rxn_id, smarts, roleA, roleB, roleC FROM reactions")
            }
        except sqlite3.Error as error:
            self._connection.close()
            raise DatabaseMalformed(f"combinatorial database {path} cannot be read: {error}") from None
        except DatabaseMalformed:
            self._connection.close()
            raise

    def _check_columns(self) -> None:
        for table, wanted in _COLUMNS.items():
            found = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
            if not found:
                raise DatabaseMalformed(f"combinatorial database {self.path} has no table {table!r}")
            if missing := wanted - found:
                raise DatabaseMalformed(
                    f"combinatorial database {self.path}: table {table!r} lacks column(s) {', '.join(sorted(missing))}"
                )

    def building_blocks(self, ids: Iterable[int]) -> dict[int, BuildingBlock]:
        """The building blocks with these ``mol_id``s; an id that is not in the database is left out."""
        wanted = sorted({i for i in ids if -(1 << 63) <= i < 1 << 63})
        found: dict[int, BuildingBlock] = {}
        for start in range(0, len(wanted), _IDS_PER_QUERY):
            chunk = wanted[start : start + _IDS_PER_QUERY]
            marks = ",".join("?" * len(chunk))
            for mol_id, smiles, mask in self._connection.execute(
                f"SELECT mol_id, smiles, role_mask FROM molecules WHERE mol_id IN ({marks})",  # noqa: S608  (only ?)
                chunk,
            ):
                if isinstance(smiles, str) and isinstance(mask, int):
                    found[mol_id] = BuildingBlock(smiles, mask)
        return found

    def close(self) -> None:
        """Give the file handle back."""
        self._connection.close()
