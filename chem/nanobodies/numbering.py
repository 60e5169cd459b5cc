"""The regions of an antibody's variable domain in IMGT numbering, as the package abnumber finds them."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from dataclasses import astuple, dataclass
from typing import Final

from chem.nanobodies.steps import CONTROL, StepUnavailable

_FIX: Final = (
    "install requirements-nanobody.txt, `pip install --no-deps abnumber==0.4.4` and HMMER (`apt-get install hmmer`)"
)


@dataclass(frozen=True, slots=True)
class Numbering:
    """One-letter residues of each region; an empty string where the domain lacks it."""

    fr1: str
    cdr1: str
    fr2: str
    cdr2: str
    fr3: str
    cdr3: str
    fr4: str

    @property
    def regions(self) -> tuple[str, ...]:
        """FR1, CDR1, FR2, CDR2, FR3, CDR3, FR4: frameworks at even places."""
        return astuple(self)

    @property
    def cdrs(self) -> dict[str, str]:
        """The three complementarity-determining regions by name."""
        return {"CDR1": self.cdr1, "CDR2": self.cdr2, "CDR3": self.cdr3}


def check_numbering() -> None:
    """That sequences can be numbered on this machine.

    Raises:
        StepUnavailable: abnumber, ANARCI or HMMER's ``hmmscan`` is not installed.
    """
    for package in ("abnumber", "anarci"):
        if importlib.util.find_spec(package) is None:
            raise StepUnavailable("numbering", f"the package {package} is not installed: {_FIX}")
    if shutil.which("hmmscan") is None:
        raise StepUnavailable("numbering", f"HMMER's program hmmscan is not on the PATH: {_FIX}")


def number(sequence: str) -> Numbering | None:
    """The regions of a sequence; None where it is not one antibody variable domain.

    Raises:
        StepUnavailable: see :func:`check_numbering`.
    """
    check_numbering()
    try:
        return _number(sequence)
    # ANARCI asserts and indexes its way through odd sequences; any failure is "not numbered"
    except Exception:  # noqa: BLE001
        try:
            _number(CONTROL)
        except Exception as error:
            raise StepUnavailable(
                "numbering", f"abnumber cannot number even a typical nanobody ({error}): {_FIX}"
            ) from error
        return None


def _number(sequence: str) -> Numbering | None:
    from abnumber import Chain
    from abnumber.exceptions import ChainParseError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            chain = Chain(sequence, scheme="imgt")
        except ChainParseError:
            return None
    regions = ("fr1", "cdr1", "fr2", "cdr2", "fr3", "cdr3", "fr4")
    return Numbering(*(str(getattr(chain, f"{region}_seq") or "") for region in regions))
