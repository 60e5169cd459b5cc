"""GPU tasks: score one batch of up to 32 molecules with PSICHIC or Boltz-2."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from time import perf_counter
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from app.celery import app
from app.clock import now
from app.domain import BindingPocket, PairScore, Protein, Scorer, ScoringInterrupted, ScoringModel, ValidatorError
from app.epochs.facts import StoredSheet, keep_warnings, opened_epoch
from app.epochs.recorded_scores import RECORDED, recorded_proteins
from app.epochs.rules import rules_of
from app.epochs.scores import MODEL_UNAVAILABLE, UNTRAINED
from app.observability.metrics import BatchOutcome, batch_ended, pairs_scored
from app.settings import get_settings
from app.store.claims import ClaimLost
from app.store.epochs import Epochs
from app.store.records import BatchRecord, OpenEpoch
from app.store.scores import Scores
from app.task import ValidatorTask

# A batch that ended its process this often is worked molecule by molecule, to find the one that does it.
_MOST_WHOLE_ATTEMPTS: Final = 2

# So many batches of 32 are scored in one call, if nobody works on them: a device is idle between small calls.
_BATCHES_TOGETHER: Final = 8

# What interrupted a batch (a full device, a time limit) is given this long to pass.
_INTERRUPTED_PAUSE: Final = timedelta(seconds=5)

log = logging.getLogger("celery_validator.scoring")


@app.task(bind=True, piece=True, waits=False)
def score_psichic(self: ValidatorTask, epoch_id: int, batch_id: int) -> dict[str, Any]:
    """Score a batch against the target(s) and all antitargets."""
    return _score(self, epoch_id, batch_id)


@app.task(bind=True, piece=True, waits=False)
def score_boltz(self: ValidatorTask, epoch_id: int, batch_id: int) -> dict[str, Any]:
    """Score a batch of candidates against the molecules' target(s)."""
    return _score(self, epoch_id, batch_id)


@app.task(bind=True, piece=True, waits=False)
def score_boltzgen(self: ValidatorTask, epoch_id: int, batch_id: int) -> dict[str, Any]:
    """Refold a batch of nanobodies with the nanobodies' target(s)."""
    return _score(self, epoch_id, batch_id)


# what scoring asks of an epoch is frozen when it opens; parsing it again took a third of a recorded batch
_frozen = lru_cache(maxsize=4)(opened_epoch)


def scoring_proteins(epoch: OpenEpoch, model: ScoringModel) -> tuple[Protein, ...]:
    """The proteins that a model's scores are kept under."""
    proteins = rules_of(epoch).proteins(epoch, model)
    return recorded_proteins(model, proteins) if epoch.scores == RECORDED else tuple(proteins)


def _score(task: ValidatorTask, epoch_id: int, batch_id: int) -> dict[str, Any]:
    if (scored := _score_together(task, epoch_id, batch_id)) is not None:
        return scored
    with task.reading() as session:
        batch = Epochs(session).batch(batch_id)
    try:
        scoring = _Scoring(_frozen(epoch_id), batch, task)
        digest, scores = scoring.run()
    except (SoftTimeLimitExceeded, ScoringInterrupted) as error:
        # bounded: from the third attempt on every round decides at least one molecule
        log.warning("batch %s was interrupted: %s", batch_id, error)
        batch_ended(batch.model, BatchOutcome.INTERRUPTED)
        task.later(_INTERRUPTED_PAUSE, error)
    except ValidatorError:
        # missing weights or a broken recording: no molecule's fault, and nothing a retry would change
        batch_ended(batch.model, BatchOutcome.FAILED)
        raise
    with task.finishing() as step:
        Scores(step.session).keep(digest, scoring.proteins, scores)
        Epochs(step.session).finish_batch(batch_id, digest, task.worked_on)
    batch_ended(batch.model, BatchOutcome.SCORED)
    return {"epoch": epoch_id, "batch": batch_id, "status": "scored"}


def _score_together(task: ValidatorTask, epoch_id: int, batch_id: int) -> dict[str, Any] | None:
    """Score this batch and others of its group in one call of PSICHIC, which takes as long for 256 pairs as for 2,000.

    None where the batch is to be scored alone: Boltz-2 gains nothing, and a batch that has failed must not fail others.
    """
    if task.name != score_psichic.name or task.held.attempts > 1:
        return None
    with task.transaction() as step:
        more = step.claims.take_more(task.held, task.name, task.holder, _BATCHES_TOGETHER - 1)
        batches = [Epochs(step.session).batch(number) for number in (batch_id, *(args[1] for _, args in more))]
    kept = False
    try:
        scoring = _Scoring(_frozen(epoch_id), replace(batches[0], smiles=_unique(batches)), task)
        digest, scores = scoring.run_once()
        with task.finishing() as step:
            Scores(step.session).keep(digest, scoring.proteins, scores)
            mine = [True, *(step.claims.finished(piece) for piece, _ in more)]
            for batch in (batch for batch, is_mine in zip(batches, mine, strict=True) if is_mine):
                Epochs(step.session).finish_batch(batch.id, digest, task.worked_on)
        kept = True
    except (SoftTimeLimitExceeded, DBAPIError, ClaimLost):
        raise
    except Exception:
        # alone, each batch finds out for itself what is wrong
        log.warning("batches %s together failed", [batch.id for batch in batches], exc_info=True)
        return None
    finally:
        if more and not kept:
            with task.transaction() as step:
                for piece, _ in more:
                    step.claims.give_back(piece, now())
    for batch in batches:
        batch_ended(batch.model, BatchOutcome.SCORED)
    return {"epoch": epoch_id, "batch": batch_id, "status": "scored", "batches": len(batches)}


def _unique(batches: Sequence[BatchRecord]) -> tuple[str, ...]:
    return tuple(smiles for batch in batches for smiles in batch.smiles)


class _Scoring:
    """One batch on its way through a scorer; what is scored is kept even if the rest is not."""

    def __init__(self, epoch: OpenEpoch, batch: BatchRecord, task: ValidatorTask) -> None:
        self._batch = batch
        self._task = task
        self.proteins = scoring_proteins(epoch, batch.model)
        self._scorer = scorer_for(epoch, batch.model)
        if getattr(self._scorer, "untrained", False):
            _refuse_or_warn(task, epoch)

    def run_once(self) -> tuple[str, list[PairScore]]:
        """The model's digest, and the scores that are not kept yet, from one call of the scorer."""
        missing = self._missing()
        return self._scorer.digest, self._ask(missing) if missing else []

    def _missing(self) -> list[str]:
        with self._task.reading() as session:
            known = Scores(session).known(self._scorer.digest, self.proteins, self._batch.smiles)
        return [
            smiles
            for smiles in self._batch.smiles
            if any((protein.code, smiles) not in known for protein in self.proteins)
        ]

    def run(self) -> tuple[str, list[PairScore]]:
        """The model's digest, and the scores that are not kept yet."""
        digest, missing = self._scorer.digest, self._missing()
        if self._task.held.attempts > _MOST_WHOLE_ATTEMPTS:
            return digest, self._one_by_one_on_watch(missing)
        return digest, self._together(missing)

    def _together(self, smiles: Sequence[str]) -> list[PairScore]:
        if not smiles:
            return []
        try:
            return self._ask(smiles)
        except ScoringInterrupted as error:
            self._keep(error.finished)
            raise
        except (SoftTimeLimitExceeded, DBAPIError, ValidatorError):
            raise
        except Exception:
            log.exception("batch %s failed; trying its molecules one by one", self._batch.id)
            batch_ended(self._batch.model, BatchOutcome.SPLIT)
            return self._one_by_one(smiles)

    def _ask(self, smiles: Sequence[str]) -> list[PairScore]:
        began = perf_counter()
        scores = self._asked(smiles)
        pairs_scored(self._batch.model, perf_counter() - began, (score.error is not None for score in scores))
        return scores

    def _asked(self, smiles: Sequence[str]) -> list[PairScore]:
        if self._batch.model is ScoringModel.BOLTZ:
            # a molecule takes seconds to minutes: each is kept as soon as it is there
            return self._scorer.pair_scores(self.proteins, smiles, lambda score: self._keep([score]))
        return self._scorer.pair_scores(self.proteins, smiles)

    def _keep(self, scores: Sequence[PairScore]) -> None:
        # a molecule is kept whole or not at all
        pairs = Counter(score.smiles for score in scores)
        whole = [score for score in scores if pairs[score.smiles] == len(self.proteins)]
        with self._task.transaction() as step:
            Scores(step.session).keep(self._scorer.digest, self.proteins, whole)
            step.claims.renew(self._task.held)

    def _one_by_one(self, smiles: Sequence[str]) -> list[PairScore]:
        scores: list[PairScore] = []
        failures = 0
        for text in smiles:
            try:
                scores += self._ask([text])
            except (SoftTimeLimitExceeded, DBAPIError, ValidatorError):
                raise
            except Exception as error:
                log.warning("molecule %s fails alone", text, exc_info=True)
                failures += 1
                last = error
                scores += self._failed(text, f"failed_alone: {type(error).__name__}: {error}")
        if failures and failures == len(smiles) and len(smiles) > 1:
            # every one of several molecules failing is the installation's fault, not theirs
            raise ValidatorError(f"{self._batch.model.value} fails on every molecule: {type(last).__name__}: {last}")
        return scores

    def _one_by_one_on_watch(self, smiles: Sequence[str]) -> list[PairScore]:
        """Each molecule is named in the store before it is begun: the one that ends the process is then known."""
        for text in smiles:
            index = self._batch.smiles.index(text)
            if index == self._batch.suspect:
                scores = self._failed(text, "worker_lost: scoring this molecule ended its worker process")
            else:
                with self._task.transaction() as step:
                    Epochs(step.session).suspect(self._batch.id, index)
                scores = self._together([text])
            self._keep(scores)
        return []

    def _failed(self, smiles: str, error: str) -> list[PairScore]:
        return [PairScore(protein.code, smiles, error=error[:300]) for protein in self.proteins]


def _refuse_or_warn(task: ValidatorTask, epoch: OpenEpoch) -> None:
    """Untrained weights show the machinery; on the chain they would set weights by chance."""
    if epoch.publishes and get_settings().sets_weights:
        raise ValidatorError(
            "no trained PSICHIC weights: run 'python -m app checkpoints fetch psichic' and '… fetch esm2', "
            "then set PSICHIC_WEIGHTS and ESM_CHECKPOINT (or rehearse with WEIGHTS_FILE or DONT_SET_WEIGHTS)"
        )
    with task.transaction() as step:
        Epochs(step.session).warn(epoch.id, UNTRAINED)
    keep_warnings(StoredSheet(epoch.id), [UNTRAINED])


def scorer_for(epoch: OpenEpoch, model: ScoringModel) -> Scorer:
    """The scorer of this process for an epoch; made once and kept, its model loaded on first use.

    Raises:
        ValidatorError: the model's weights are missing.
    """
    rules = rules_of(epoch)
    try:
        return _model_scorer(model, rules.binding_pocket, rules.boltz_profile)
    except ValidatorError as fault:
        if rules.needs_every_model:
            raise
        log.exception("epoch %s: %s cannot be run here", epoch.id, model.value)
        return MissingModel(model, str(fault))


class MissingModel:
    """Stands for a model that this validator cannot run (:class:`app.domain.Scorer`): every score says so."""

    def __init__(self, model: ScoringModel, reason: str) -> None:
        self.digest = hashlib.sha256(f"missing {model.value}: {reason}".encode()).hexdigest()
        self._error = f"{MODEL_UNAVAILABLE}: {reason}"[:300]

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """See :class:`app.domain.Scorer`."""
        return [PairScore(protein.code, item, error=self._error) for protein in proteins for item in smiles]


# keyed by what decides the numbers and not by the epoch: the next epoch finds the model loaded
@lru_cache(maxsize=4)
def _model_scorer(model: ScoringModel, pocket: BindingPocket | None, profile: str | None) -> Scorer:
    from gpu.scorers import build_scorer

    return build_scorer(model, get_settings(), pocket, profile)


def forget_scorers() -> None:
    """Let go of every scorer and epoch that this process holds."""
    _frozen.cache_clear()
    _model_scorer.cache_clear()
