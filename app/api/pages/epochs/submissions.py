"""One submission: why it was refused, or how each of its molecules scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from fastapi import Request, Response

from app.api.pages.charts import Chart, histogram
from app.api.pages.downloads import csv_response, json_response
from app.api.pages.epochs.epochs import line_of, miner_path, rules_of
from app.api.pages.epochs.rejection_codes import REMEDIES, Explanation, explanation_of
from app.api.pages.epochs.tracks import SubmissionTrack, tracks_of
from app.api.pages.errors import NotFound
from app.api.pages.page import SECURITY_HEADERS, PageRouter, render
from app.domain import MINUS_INFINITY, Molecule, ScoringModel
from app.epochs.rules.october_2025 import MoleculeValidation, October2025
from app.store.database import get_store
from app.store.epoch_views import EpochFacts, EpochLine, EpochViews, ScoreFailure
from app.store.epochs import Epochs, UnknownEpoch
from app.store.records import SubmissionRecord, track_refusals
from app.store.tables.base import LARGEST_ID
from chain.incentive.molecules import boltz_candidates, entropy_weight

router = PageRouter()

# A molecule's picture never changes; an epoch's id might come back after everything was deleted.
_DRAWING_KEPT: Final = "private, max-age=86400"

_NO_PICTURE: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 260 150" width="260" height="150">'
    '<text x="130" y="80" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#808080">no picture</text>'
    "</svg>"
)


@dataclass(frozen=True, slots=True)
class MoleculeLine:
    """A molecule and its scores: against each target and antitarget, combined, and by Boltz-2.

    −inf is a missing score, and ``reasons`` says why; before the epoch is ranked, the scores are empty.
    """

    index: int
    molecule: Molecule
    targets: tuple[float, ...]
    antitargets: tuple[float, ...]
    score: float | None
    boltz: Mapping[str, float]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubmissionPage:
    """All that one submission's page shows."""

    epoch: EpochLine
    facts: EpochFacts
    submission: SubmissionRecord
    molecules: tuple[MoleculeLine, ...]
    rules: MoleculeValidation | None

    @property
    def tracks(self) -> tuple[SubmissionTrack, ...]:
        """The tracks that it entered, in an era that has several."""
        return tracks_of(self.submission)

    @property
    def explanation(self) -> Explanation | None:
        """What the code of its refusal means."""
        refused = self.submission.rejection
        return None if refused is None else explanation_of(refused.code.value)

    @property
    def targets(self) -> tuple[str, ...]:
        """The codes of the target proteins."""
        return () if self.facts.challenge is None else self.facts.challenge.targets

    @property
    def antitargets(self) -> tuple[str, ...]:
        """The codes of the antitarget proteins."""
        return () if self.facts.challenge is None else self.facts.challenge.antitargets

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the Boltz-2 metrics that some molecule has; the one that counts comes first."""
        names = dict.fromkeys(name for line in self.molecules for name in line.boltz)
        counts = None if self.rules is None else self.rules.boltz_metric
        return tuple(sorted(names, key=lambda name: (name != counts, name)))

    @property
    def scored(self) -> bool:
        """Whether the epoch's ranking wrote scores of its molecules."""
        return any(line.score is not None for line in self.molecules)

    @property
    def sum(self) -> float | None:
        """The sum of the molecules' combined scores, before the entropy bonus."""
        scores = [line.score for line in self.molecules if line.score is not None]
        return sum(scores) if scores else None

    @property
    def entropy_weight(self) -> float | None:
        """The factor of the entropy in the bonus: a start plus a step an epoch, at least 0; None without rules."""
        return None if self.rules is None else entropy_weight(self.epoch.summary.number, self.rules)


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}")
def submission(request: Request, epoch_id: int, uid: int) -> Response:
    """One submission of one epoch."""
    found = submission_page(epoch_id, uid)
    return render(
        request,
        "submission.html",
        page=found,
        distribution=_distribution(found),
        miner_path=miner_path,
        remedies=REMEDIES,
    )


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}.csv")
def submission_csv(epoch_id: int, uid: int) -> Response:
    """The molecules of a submission as CSV."""
    found = submission_page(epoch_id, uid)
    columns = (
        "index",
        "name",
        "smiles",
        "inchikey",
        *(f"target {code}" for code in found.targets),
        *(f"antitarget {code}" for code in found.antitargets),
        "score",
        *(f"boltz {name}" for name in found.metrics),
        "reasons",
    )
    rows = (
        (
            line.index,
            line.molecule.name,
            line.molecule.smiles,
            line.molecule.inchikey,
            *_padded(line.targets, len(found.targets)),
            *_padded(line.antitargets, len(found.antitargets)),
            line.score,
            *(line.boltz.get(name) for name in found.metrics),
            " | ".join(line.reasons),
        )
        for line in found.molecules
    )
    return csv_response(f"epoch-{found.epoch.summary.number}-uid-{uid}", columns, rows)


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}.json")
def submission_json(epoch_id: int, uid: int) -> Response:
    """A submission with its molecules as JSON."""
    found = submission_page(epoch_id, uid)
    one = found.submission
    return json_response(
        f"epoch-{found.epoch.summary.number}-uid-{uid}",
        {
            "epoch": found.epoch.summary.number,
            "epoch_id": epoch_id,
            "uid": uid,
            "commitment": one.commitment,
            "push_time": one.push_time,
            "status": one.state,
            "rejection": one.rejection,
            "explanation": found.explanation,
            "entropy": one.entropy,
            "entropy_boltz": one.entropy_boltz,
            "entropy_weight": found.entropy_weight,
            "psichic_score": one.psichic_score,
            "psichic_rank": one.psichic_rank,
            "boltz_score": one.boltz_score,
            "boltz_rank": one.boltz_rank,
            "weight": (found.epoch.summary.weights or {}).get(uid),
            "tracks": found.tracks,
            "targets": found.targets,
            "antitargets": found.antitargets,
            "molecules": found.molecules,
        },
    )


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}/molecules/{index:int}.svg")
def molecule_drawing(epoch_id: int, uid: int, index: int) -> Response:
    """The structure of one molecule in the store."""
    with get_store().reading() as session:
        molecules = EpochViews(session).molecules(epoch_id, uid)
    if index >= len(molecules):
        raise NotFound("The store has no such molecule.")
    return _picture(molecules[index].smiles)


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}/refused.svg")
def refused_drawing(epoch_id: int, uid: int) -> Response:
    """The structure of the molecule that a submission was refused for, where the rule got so far as to know it."""
    found = submission_page(epoch_id, uid).submission.rejection
    if found is None or not found.smiles:
        raise NotFound("The store has no such molecule.")
    return _picture(found.smiles)


@router.page("/epochs/{epoch_id:int}/submissions/{uid:int}/tracks/{track}/{index:int}.svg")
def refused_item_drawing(epoch_id: int, uid: int, track: str, index: int) -> Response:
    """The structure of a molecule for which a track, or the molecule alone, was refused."""
    for one in track_refusals(submission_page(epoch_id, uid).submission.tracks):
        if (one.track, one.rejection.index) == (track, index) and one.rejection.smiles:
            return _picture(one.rejection.smiles)
    raise NotFound("The store has no such molecule.")


def _picture(smiles: str) -> Response:
    picture = _drawing()(smiles) or _NO_PICTURE
    headers = {
        **SECURITY_HEADERS,
        "Cache-Control": _DRAWING_KEPT,
        # the picture brings its own style, and nothing else
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    }
    return Response(picture, media_type="image/svg+xml", headers=headers)


def submission_page(epoch_id: int, uid: int) -> SubmissionPage:
    """Read one submission.

    Raises:
        NotFound: the store has no such epoch, or no submission of this UID in it.
    """
    with get_store().reading() as session:
        views = EpochViews(session)
        line = line_of(views, epoch_id)
        try:
            one = Epochs(session).submission(epoch_id, min(uid, LARGEST_ID))
        except UnknownEpoch:
            raise NotFound(f"UID {uid} submitted nothing in epoch {line.summary.number}.") from None
        facts = views.facts(epoch_id)
        frozen = None if facts.rules_text is None else rules_of(facts.rules_text)
        rules = frozen.parameters.molecule_validation if isinstance(frozen, October2025) else None
        candidates = _candidates(one, facts, rules)
        wanting = _wanting(one, candidates)
        failures = views.score_failures(epoch_id, facts.proteins, wanting)
    scored = one.scored or [{} for _ in one.molecules]
    molecules = tuple(
        _line(index, molecule, entry, index in candidates, facts, failures)
        for index, (molecule, entry) in enumerate(zip(one.molecules, scored, strict=False))
    )
    return SubmissionPage(line, facts, one, molecules, rules)


@cache
def _drawing() -> Any:
    # RDKit is loaded by the first picture, not by every process that serves the API
    from chem.drawing import drawing

    return drawing


def _candidates(one: SubmissionRecord, facts: EpochFacts, rules: MoleculeValidation | None) -> frozenset[int]:
    if rules is None or facts.without_boltz or not one.molecules:
        return frozenset()
    return frozenset(boltz_candidates(one.uid, len(one.molecules), facts.header.end_block_hash, rules))


def _wanting(one: SubmissionRecord, candidates: frozenset[int]) -> list[str]:
    """The SMILES of which some score is missing."""
    return [
        molecule.smiles
        for index, (molecule, entry) in enumerate(zip(one.molecules, one.scored or (), strict=False))
        if entry["score"] == "-inf" or (index in candidates and not entry["boltz"])
    ]


def _line(
    index: int,
    molecule: Molecule,
    entry: Mapping[str, Any],
    candidate: bool,
    facts: EpochFacts,
    failures: Mapping[tuple[ScoringModel, str, str], ScoreFailure],
) -> MoleculeLine:
    targets, antitargets = _scores(entry.get("target_scores")), _scores(entry.get("antitarget_scores"))
    boltz = entry.get("boltz") or {}
    reasons: list[str] = []
    if facts.challenge is not None:
        unscored = [
            code
            for code, value in zip(facts.challenge.proteins, targets + antitargets, strict=False)
            if value == MINUS_INFINITY
        ]
        causes: dict[str, list[str]] = {}
        for code in unscored:
            causes.setdefault(_reason(ScoringModel.PSICHIC, code, molecule.smiles, facts, failures), []).append(code)
        reasons = [f"PSICHIC, {', '.join(codes)}: {reason}" for reason, codes in causes.items()]
        if candidate and entry and not boltz:
            reason = _reason(ScoringModel.BOLTZ, facts.challenge.targets[0], molecule.smiles, facts, failures)
            reasons.append(f"Boltz-2: {reason}")
    score = entry.get("score")
    return MoleculeLine(
        index=index,
        molecule=molecule,
        targets=targets,
        antitargets=antitargets,
        score=None if score is None else _number(score),
        boltz={str(name): float(value) for name, value in boltz.items()},
        reasons=tuple(reasons),
    )


def _reason(
    model: ScoringModel,
    code: str,
    smiles: str,
    facts: EpochFacts,
    failures: Mapping[tuple[ScoringModel, str, str], ScoreFailure],
) -> str:
    failure = failures.get((model, code, smiles))
    if failure is not None:
        return failure.error
    if any(protein.code == code and protein.sequence is None for protein in facts.proteins):
        return "the protein has no known sequence"
    return "no score, and no reason was kept"


def _scores(values: object) -> tuple[float, ...]:
    return tuple(_number(value) for value in values) if isinstance(values, list) else ()


def _number(value: object) -> float:
    return MINUS_INFINITY if value == "-inf" else float(str(value))


def _padded(values: tuple[float, ...], length: int) -> tuple[float | None, ...]:
    return values + (None,) * (length - len(values))


def _distribution(found: SubmissionPage) -> Chart:
    scores = [line.score for line in found.molecules if line.score is not None]
    return histogram("Combined scores", scores, axis="score of a molecule", what="molecules")
