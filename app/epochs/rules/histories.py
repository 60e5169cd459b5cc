"""The submission archive as the rules of two tracks read it: molecules to resemble, nanobodies to resemble."""

from __future__ import annotations

from collections.abc import Sequence

from app.epochs.rules.archives import molecules_file, nanobodies_file
from app.epochs.rules.rule_set import FactsReader
from chain.sources import ArchiveUnavailable
from chem.archive import ArchiveUnreadable
from chem.history import History, read_history
from chem.nanobodies.archive import NanobodyArchive, read_nanobody_archive


def molecule_histories(facts: FactsReader, targets: Sequence[str]) -> tuple[dict[str, History], list[str]]:
    """Each target's archived molecules, and warnings; an archive that is missing or unreadable checks nothing."""
    histories: dict[str, History] = {}
    warnings: list[str] = []
    for target in targets:
        try:
            path = facts.file(molecules_file(target))
            histories[target] = History([]) if path is None else read_history(path)
        except (ArchiveUnreadable, ArchiveUnavailable) as error:
            warnings.append(f"{error}; no molecule was compared with those submitted for {target} before")
            continue
        if unreadable := histories[target].unreadable:
            warnings.append(f"{unreadable} archived molecule(s) of {target} cannot be read and were not compared with")
    return histories, warnings


def nanobody_archives(facts: FactsReader, targets: Sequence[str]) -> tuple[dict[str, NanobodyArchive], list[str]]:
    """Each target's archived nanobodies, and warnings; an archive that is missing or unreadable checks nothing."""
    archives: dict[str, NanobodyArchive] = {}
    warnings: list[str] = []
    for target in targets:
        try:
            path = facts.file(nanobodies_file(target))
            archives[target] = NanobodyArchive() if path is None else read_nanobody_archive(path)
        except (ArchiveUnreadable, ArchiveUnavailable) as error:
            warnings.append(f"{error}; no nanobody was compared with those submitted for {target} before")
            continue
        warnings += archives[target].warnings
    return archives, warnings
