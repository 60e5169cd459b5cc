"""The combinatorial database: reactions and building blocks, read by primary key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from app.domain import ValidatorError
from app.untrusted import quoted

# SQLite's default limit of bound variables is 999 in the oldest builds still met.
_IDS_PER_QUERY: Final = 900

_COLUMNS: Final = {
    "reactions": {"rxn_id", "smarts", "roleA", "roleB", "roleC"},
    "molecules": {"mol_id", "smiles", "role_mask"},
}


# what a damaged file makes sqlite3 raise; the latter of names and messages that are not UTF-8
_DAMAGED: Final = (sqlite3.Error, UnicodeDecodeError)


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
        # text that is not UTF-8 spoils its own row, which no chemistry can read, and no other
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._check_columns()
            self.reactions: Mapping[int, Reaction] = {
                row[0]: self._reaction(*row)
                for row in self._connection.execute("SELECT rxn_id, smarts, roleA, roleB, roleC FROM reactions")
            }
        except _DAMAGED as error:
            self._connection.close()
            raise DatabaseMalformed(f"combinatorial database {path} cannot be read: {error}") from None
        except DatabaseMalformed:
            self._connection.close()
            raise

    def _reaction(self, reaction_id: object, smarts: object, *roles: object) -> Reaction:
        """A row of ``reactions``: SQLite keeps a value of any type in any column."""
        a, b, c = (role if isinstance(role, int) else None for role in roles)
        known = isinstance(reaction_id, int) and (smarts is None or isinstance(smarts, str))
        if not known or (a, b, c) != roles:
            raise DatabaseMalformed(
                f"combinatorial database {self.path}: table 'reactions', rxn_id {quoted(reaction_id)}: "
                "rxn_id and roles must be integers and smarts text"
            )
        assert isinstance(reaction_id, int)
        return Reaction(reaction_id, str(smarts or ""), a, b, c)

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
        """The building blocks with these ``mol_id``s; an id that is not in the database is left out.

        Raises:
            DatabaseMalformed: the file is damaged.
        """
        wanted = sorted({i for i in ids if -(1 << 63) <= i < 1 << 63})
        found: dict[int, BuildingBlock] = {}
        try:
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                chunk = wanted[start : start + _IDS_PER_QUERY]
                marks = ",".join("?" * len(chunk))
                for mol_id, smiles, mask in self._connection.execute(
                    f"SELECT mol_id, smiles, role_mask FROM molecules WHERE mol_id IN ({marks})",  # noqa: S608  (only ?)
                    chunk,
                ):
                    if isinstance(mol_id, int) and isinstance(smiles, str) and isinstance(mask, int):
                        found[mol_id] = BuildingBlock(smiles, mask)
        except _DAMAGED as error:
            raise DatabaseMalformed(f"combinatorial database {self.path} cannot be read: {error}") from None
        return found

    def close(self) -> None:
        """Give the file handle back."""
        self._connection.close()
