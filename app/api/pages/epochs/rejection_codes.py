"""What each rejection code means to the miner who reads it, and the page that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fastapi import Request, Response

from app.api.pages.downloads import csv_response, json_response
from app.api.pages.page import PageRouter, render
from app.domain import RejectionCode

router = PageRouter()


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code in a miner's words: what was found, and what to do about it. ``step`` is when it is looked at."""

    code: RejectionCode
    step: str
    meaning: str
    remedy: str


_COMMIT: Final = "1 commitment"
_FETCH: Final = "2 fetch"
_DECRYPT: Final = "3 decrypt"
_RULES: Final = "4 molecules"
_NANO: Final = "5 nanobodies"

# In the order in which a submission is examined; the first failure is the one that is reported.
EXPLANATIONS: Final = (
    Explanation(
        RejectionCode.PATH_MALFORMED,
        _COMMIT,
        "The commitment is no GitHub path of the form owner/repo/branch/path/HASH.txt, or it holds something that no "
        "path needs: an empty segment, '..', a scheme, a query, a control character.",
        "Commit the path exactly as GitHub spells it, without a host before it.",
    ),
    Explanation(
        RejectionCode.CONTENT_NOT_FOUND,
        _FETCH,
        "GitHub had no file at the committed path when the epoch was examined.",
        "Push the file before the epoch ends, to a public repository, on the branch that the path names.",
    ),
    Explanation(
        RejectionCode.CONTENT_TOO_LARGE,
        _FETCH,
        "The file is larger than 20 KiB.",
        "Commit the encrypted submission alone; a hundred names fit easily.",
    ),
    Explanation(
        RejectionCode.HASH_MISMATCH,
        _FETCH,
        "The file's name is not the first 20 hex digits of the SHA-256 of its bytes, so it is not what was committed.",
        "Name the file after the bytes that are pushed, and change neither afterwards.",
    ),
    Explanation(
        RejectionCode.FORMAT_INVALID,
        _DECRYPT,
        "The file, or what it decrypts to, is not written as agreed: a tuple (target_round, ciphertext), and in it "
        "UID:name,name,… as plain text.",
        "Write the file with the miner's own encryption call and do not edit it.",
    ),
    Explanation(
        RejectionCode.ROUND_NOT_REACHED,
        _DECRYPT,
        "The submission is locked until a drand round that lay in the future when the epoch was examined.",
        "Encrypt for a round that is reached before the epoch ends.",
    ),
    Explanation(
        RejectionCode.DECRYPTION_FAILED,
        _DECRYPT,
        "The drand signature of the round does not open the ciphertext.",
        "Encrypt for the quicknet chain, for the very round that the file names.",
    ),
    Explanation(
        RejectionCode.UID_MISMATCH,
        _DECRYPT,
        "The decrypted text belongs to another UID than the one that committed it.",
        "Submit your own molecules, with your own UID before them.",
    ),
    Explanation(
        RejectionCode.WRONG_MOLECULE_COUNT,
        _DECRYPT,
        "The submission does not hold exactly as many molecules as the epoch's rules ask for.",
        "Submit exactly num_molecules names, separated by commas.",
    ),
    Explanation(
        RejectionCode.PAYLOAD_MALFORMED,
        _DECRYPT,
        "The decrypted text is not molecules|sequences: white space, a character that is not ASCII, an empty "
        "side, or not exactly one '|'.",
        "Write UID:name,…|sequence,… without blanks, and ~ for a track that you do not enter.",
    ),
    Explanation(
        RejectionCode.NOTHING_SUBMITTED,
        _DECRYPT,
        "Neither track was entered.",
        "Name at least one molecule or one sequence.",
    ),
    Explanation(
        RejectionCode.TRACK_EXCLUDED,
        _RULES,
        "An item contains '~', which takes the whole track out; the other track stands.",
        "Write ~ alone, for a track that you do not enter.",
    ),
    Explanation(
        RejectionCode.DUPLICATE_NAMES,
        _RULES,
        "One name occurs twice.",
        "Name every molecule once.",
    ),
    Explanation(
        RejectionCode.REACTION_NOT_ALLOWED,
        _RULES,
        "A molecule is made by a reaction that this epoch does not allow.",
        "Use the reactions that the epoch's page lists.",
    ),
    Explanation(
        RejectionCode.NOT_IN_DATABASE,
        _RULES,
        "A name cannot be made from the combinatorial database: an unknown building block, one in a role that it does "
        "not have, or a reaction that yields nothing.",
        "Check each name with: python -m app submission check.",
    ),
    Explanation(
        RejectionCode.TOO_FEW_HEAVY_ATOMS,
        _RULES,
        "A molecule has fewer heavy atoms than the rules ask for.",
        "Choose larger molecules; min_heavy_atoms is in the epoch's rules.",
    ),
    Explanation(
        RejectionCode.ROTATABLE_BONDS,
        _RULES,
        "A molecule has fewer or more rotatable bonds than the rules allow.",
        "Keep between min_rotatable_bonds and max_rotatable_bonds of the epoch's rules.",
    ),
    Explanation(
        RejectionCode.ALREADY_USED,
        _RULES,
        "A molecule stands in the archive of molecules that were submitted for this target before.",
        "Submit molecules that are new for the target, compared by InChIKey.",
    ),
    Explanation(
        RejectionCode.CHEMICALLY_IDENTICAL,
        _RULES,
        "Two names give one and the same molecule (one InChIKey).",
        "Leave one of the two out.",
    ),
    Explanation(
        RejectionCode.BANNED_ATOM,
        _RULES,
        "A molecule contains an element that this epoch does not allow.",
        "Leave out the elements in banned_atom_types of the epoch's rules.",
    ),
    Explanation(
        RejectionCode.TOO_SIMILAR,
        _RULES,
        "A molecule or nanobody resembles one that was submitted for this target before.",
        "Choose one that differs more; the submission's page names the nearest archived one.",
    ),
    Explanation(
        RejectionCode.LIST_ENDED,
        _RULES,
        "A molecule comes after one that was refused and ended the list.",
        "Put molecules that might be refused last, or leave them out.",
    ),
    Explanation(
        RejectionCode.TOO_FEW_ITEMS,
        _RULES,
        "Fewer items can be scored than the rules count.",
        "Submit num_molecules molecules, or num_sequences sequences, that can be scored.",
    ),
    Explanation(
        RejectionCode.WRONG_SEQUENCE_COUNT,
        _NANO,
        "There are fewer sequences than the rules count.",
        "Submit num_sequences sequences.",
    ),
    Explanation(
        RejectionCode.DUPLICATE_SEQUENCES,
        _NANO,
        "A sequence is given twice.",
        "Submit each sequence once.",
    ),
    Explanation(
        RejectionCode.SEQUENCE_LENGTH,
        _NANO,
        "A sequence is shorter or longer than the rules allow.",
        "Keep between min_sequence_length and max_sequence_length residues.",
    ),
    Explanation(
        RejectionCode.INVALID_RESIDUE,
        _NANO,
        "A sequence holds a letter that is not one of the twenty amino acids.",
        "Use ACDEFGHIKLMNPQRSTVWY alone.",
    ),
    Explanation(
        RejectionCode.HOMOPOLYMER_RUN,
        _NANO,
        "One residue is repeated more often in a row than the rules allow.",
        "Break the run; max_homopolymer_run is in the epoch's rules.",
    ),
    Explanation(
        RejectionCode.DIPEPTIDE_REPEAT,
        _NANO,
        "A pair of residues is repeated more often than the rules allow.",
        "Break the repeat; max_di_repeat_pairs is in the epoch's rules.",
    ),
    Explanation(
        RejectionCode.TOO_FEW_CYSTEINES,
        _NANO,
        "A sequence has fewer cysteines than the rules ask for.",
        "Keep the conserved cysteines.",
    ),
    Explanation(
        RejectionCode.NO_CYSTEINE_PAIR,
        _NANO,
        "No sequence has two cysteines at the distance of a disulfide bridge.",
        "Keep the conserved cysteines at their places.",
    ),
    Explanation(
        RejectionCode.SIGNAL_PEPTIDE,
        _NANO,
        "The sequence begins like a signal peptide: a stretch of hydrophobic residues.",
        "Submit the mature domain, without a leader.",
    ),
    Explanation(
        RejectionCode.NOT_VHH,
        _NANO,
        "IMGT positions 49 and 50 are not those of a camelid VHH.",
        "Keep E or Q at 49 and R at 50.",
    ),
    Explanation(
        RejectionCode.LOW_NATIVENESS,
        _NANO,
        "The sequence is too far from natural camelid domains.",
        "Stay nearer to a camelid germline; min_nativeness_score is in the rules.",
    ),
    Explanation(
        RejectionCode.NO_HUMAN_MATCH,
        _NANO,
        "IgBLAST finds no human germline gene that the sequence resembles.",
        "Use a framework that is closer to a human one.",
    ),
    Explanation(
        RejectionCode.LOW_HUMAN_FRAMEWORK,
        _NANO,
        "The framework is too far from human ones.",
        "Use a framework that is closer to a human one; min_human_framework_score is in the rules.",
    ),
    Explanation(
        RejectionCode.NOT_DEVELOPABLE,
        _NANO,
        "The modelled structure lies outside the limits on loop lengths, compactness, hydrophobic or charged patches.",
        "Change the loops; the message names the figure that is outside.",
    ),
    Explanation(
        RejectionCode.STEP_UNAVAILABLE,
        _NANO,
        "This validator cannot run a step of the nanobody track, so the track is not judged here.",
        "Nothing for a miner to do; tell the validator's operator.",
    ),
    Explanation(
        RejectionCode.INTERNAL_ERROR,
        "any",
        "This validator could not examine the submission, through no fault of its miner. The epoch's warnings say what "
        "happened.",
        "Nothing for a miner to do; tell the validator's operator.",
    ),
)


# What to do about each code, for the templates.
REMEDIES: Final = {explanation.code.value: explanation.remedy for explanation in EXPLANATIONS}


def explanation_of(code: str) -> Explanation | None:
    """A code's explanation; None for a code that a newer version wrote."""
    return next((found for found in EXPLANATIONS if found.code == code), None)


@router.page("/rejections")
def rejections(request: Request) -> Response:
    """Every code, in the order in which they are looked at."""
    return render(request, "rejections.html", explanations=EXPLANATIONS)


@router.page("/rejections.csv")
def rejections_csv() -> Response:
    """The same as CSV."""
    rows = ((found.step, found.code, found.meaning, found.remedy) for found in EXPLANATIONS)
    return csv_response("rejections", ("step", "code", "meaning", "remedy"), rows)


@router.page("/rejections.json")
def rejections_json() -> Response:
    """The same as JSON."""
    return json_response("rejections", {"rejections": EXPLANATIONS})
