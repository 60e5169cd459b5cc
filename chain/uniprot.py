"""UniProt: a protein's sequence by its entry."""

from __future__ import annotations

import re
from typing import Final

from app.observability.metrics import Fault, Service, service_failed
from chain.web import HostUnavailable, WebSession

_OK: Final = 200

# Titin, the longest human protein, has 34,350 residues.
_MAX_FASTA_BYTES: Final = 1 << 20

_ENTRY: Final = re.compile(r"[A-Za-z0-9]{4,12}(?:-\d{1,3})?\Z")
_RESIDUES: Final = re.compile(r"[A-Z]+\Z")


class UniProt:
    """UniProtKB's REST interface."""

    def __init__(self, session: WebSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    def sequence(self, code: str) -> str | None:
        """One-letter residues; None where UniProt has no such entry, or one without a sequence.

        Raises:
            HostUnavailable: UniProt does not say.
        """
        if not _ENTRY.match(code):
            return None
        answer = self._session.get(f"{self._url}/uniprotkb/{code}.fasta", _MAX_FASTA_BYTES, service=Service.UNIPROT)
        if answer.status != _OK:
            return None
        lines = answer.body.decode("ascii", "replace").splitlines()
        residues = "".join(line.strip() for line in lines[1:] if not line.startswith(">")).upper()
        if not residues and not any(line.strip() for line in lines):
            # an entry that was withdrawn
            return None
        if not lines[0].startswith(">") or not _RESIDUES.match(residues) or answer.cut:
            service_failed(Service.UNIPROT, Fault.MALFORMED)
            raise HostUnavailable(f"UniProt answers {code} with something that is not FASTA")
        return residues
