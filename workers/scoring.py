"""GPU tasks: score one batch of up to 32 molecules with PSICHIC or Boltz-2."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from sys import getswitchinterval, setswitchinterval
from threading import Event
from time import monotonic, perf_counter
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from app.celery import app
from app.clock import now
from app.domain import BindingPocket, PairScore, Protein, Scorer, ScoringInterrupted, ScoringModel, ValidatorError
from app.epochs.facts import StoredSheet, keep_warnings, opened_epoch
from app.epochs.recorded_scores import RECORDED, recorded_proteins
from app.epochs.rules import rules_of
from app.epochs.scores import MODEL_UNAVAILABLE, UNTRAINED
from app.observability.metrics import BatchOutcome, batch_ended, pairs_scored
from app.settings import get_settings
from app.store.claims import Piece
from app.store.epochs import Epochs
from app.store.records import BatchRecord, OpenEpoch, WorkedOn
from app.store.scores import Scores
from app.task import Step, ValidatorTask
from app.untrusted import shown

# A batch that ended its process this often is worked molecule by molecule, to find the one that does it.
_MOST_WHOLE_ATTEMPTS: Final = 2

# So many batches of 32 are scored in one call, if nobody works on them: a device is idle between small calls.
_BATCHES_TOGETHER: Final = 16

# A task goes on with its group's batches for so long (s): on a CPU a call takes longer, on a device half a second.
_LONGEST_TOGETHER: Final = 30.0
_LANES: Final = 2
_SWITCH_INTERVAL: Final = 0.0005

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
    """Score this batch and others of its group in large calls of PSICHIC: one takes as long for 256 pairs as for 2,000.

    None where the batch is to be scored alone: Boltz-2 gains nothing, and a batch that has failed must not fail others.
    """
    if task.name != score_psichic.name or task.held.attempts > 1:
        return None
    together = _Together(task, epoch_id)
    if not together.first(batch_id):
        return None
    together.rest()
    return {"epoch": epoch_id, "batch": batch_id, "status": "scored", "batches": together.scored}


class _Together:
    """Batches of one group, many a call, in two lanes: one has the device while the other reads or writes."""

    def __init__(self, task: ValidatorTask, epoch_id: int) -> None:
        self._task, self._epoch_id = task, epoch_id
        # a lane is another thread, in which the task has no request
        self._own, self._holder, self._name = task.held, task.holder, task.name
        self._until = monotonic() + _LONGEST_TOGETHER
        self._ended = Event()
        self.scored = 0

    def first(self, batch_id: int) -> bool:
        """Score the task's own batch and some more; False where that failed, and the batch is to be scored alone."""
        with self._task.transaction() as step:
            more = self._more(step, _BATCHES_TOGETHER - 1)
        if len(more) < _BATCHES_TOGETHER - 1:
            self._ended.set()
        return self._score([self._own, *(piece for piece, _ in more)], [batch_id, *(args[1] for _, args in more)])

    def rest(self) -> None:
        """Score what nobody works on yet."""
        if self._ended.is_set():
            return
        interval = getswitchinterval()
        # launching hundreds of recordings takes the interpreter's lock for each: at 5 ms a turn the device starves
        setswitchinterval(_SWITCH_INTERVAL)
        with ThreadPoolExecutor(_LANES) as pool:
            try:
                for lane in [pool.submit(self._lane) for _ in range(_LANES)]:
                    lane.result()
            finally:
                # a time limit interrupts this thread alone
                self._ended.set()
                setswitchinterval(interval)

    def _lane(self) -> None:
        while not self._ended.is_set() and monotonic() < self._until:
            with self._task.transaction() as step:
                more = self._more(step, _BATCHES_TOGETHER)
            if not more or not self._score([piece for piece, _ in more], [args[1] for _, args in more]):
                return

    def _more(self, step: Step, at_most: int) -> list[tuple[Piece, tuple[Any, ...]]]:
        return step.claims.take_more(self._own, self._name, self._holder, at_most)

    def _score(self, pieces: Sequence[Piece], batch_ids: Sequence[int]) -> bool:
        kept = False
        try:
            with self._task.reading() as session:
                batches = Epochs(session).batches_of(batch_ids)
            scoring = _Scoring(_frozen(self._epoch_id), replace(batches[0], smiles=_unique(batches)), self._task)
            digest, scores = scoring.run_once()
            with self._task.transaction() as step:
                Scores(step.session).keep(digest, scoring.proteins, scores)
                mine = step.claims.finished(pieces)
                done = [number for piece, number in zip(pieces, batch_ids, strict=True) if piece.id in mine]
                Epochs(step.session).finish_batches(done, digest, WorkedOn(self._holder, pieces[-1].claimed_at))
                step.follow(self._own)
            kept = True
        except (SoftTimeLimitExceeded, DBAPIError):
            raise
        except Exception:
            # alone, each batch finds out for itself what is wrong
            log.warning("batches %s together failed", list(batch_ids), exc_info=True)
            return False
        finally:
            if not kept and (more := [piece for piece in pieces if piece is not self._own]):
                self._give_back(more)
        for batch in batches:
            batch_ended(batch.model, BatchOutcome.SCORED)
        self.scored += len(batches)
        return True

    def _give_back(self, pieces: Sequence[Piece]) -> None:
        # nobody else takes them before their lease ends: worth waiting for a store that is unavailable
        for attempt in Retrying(
            retry=retry_if_exception_type(DBAPIError),
            wait=wait_exponential(max=10),
            stop=stop_after_delay(60),
            # the task comes back for a store that is unavailable, not for tenacity's own error
            reraise=True,
        ):
            with attempt, self._task.transaction() as step:
                for piece in pieces:
                    step.claims.give_back(piece, now())


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
                scores += self._failed(text, f"failed_alone: {shown(error, 280)}")
        if failures and failures == len(smiles) and len(smiles) > 1:
            # every one of several molecules failing is the installation's fault, not theirs
            raise ValidatorError(f"{self._batch.model.value} fails on every molecule: {shown(last, 300)}")
        return scores

    def _one_by_one_on_watch(self, smiles: Sequence[str]) -> list[PairScore]:
        """Each molecule is named in the store before it is begun: the one that ends the process is then known."""
        for text in smiles:
            index = self._batch.smiles.index(text)
            if index == self._batch.begun_alone:
                scores = self._failed(text, "worker_lost: scoring this molecule ended its worker process")
            else:
                with self._task.transaction() as step:
                    Epochs(step.session).begin_alone(self._batch.id, index)
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
