"""The exchange of scores between validators: ours are posted, everybody's averages taken; both become facts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from app.clock import now
from app.domain import BLOCK, ValidatorError
from app.epochs.facts import EpochFacts, FactSheet
from app.epochs.rules import rules_of
from app.epochs.scores import EpochScores
from app.settings import Settings
from app.store.records import EpochSummary, OpenEpoch, PartState, SubmissionRecord
from chain.score_sharing import Averages, Posted, ScoreSharing, averages_due
from chain.sources import SourceUnavailable
from chain.subtensor import Subtensor
from chain.web import HostUnavailable, WebSession

POSTED_FILE: Final = "scores/posted.json"
SHARED_FILE: Final = "scores/shared.json"

# The newest block is asked for at least this often while the averages are waited for.
_LOOK_EVERY: Final = timedelta(minutes=5)

# Between two tries to post, or to ask the chain.
_PAUSE: Final = timedelta(seconds=12)

log = logging.getLogger("celery_validator.exchange")


class Exchange:
    """One epoch's exchange; each call moves it on by a step, whatever died before.

    Once ``scores/shared.json`` is among the facts it is over, with averages or with the reason that there are none.
    """

    def __init__(self, epoch: OpenEpoch, summary: EpochSummary, sheet: FactSheet, settings: Settings) -> None:
        self._epoch, self._sheet, self._settings = epoch, sheet, settings
        self._facts = EpochFacts(sheet)
        # weights of this epoch must be out before the next closes
        self._ends = summary.created_at + epoch.header.epoch_length * BLOCK
        self._exchanges = epoch.publishes and rules_of(epoch).exchanges_scores

    def before_due(self, chain: Subtensor) -> timedelta | None:
        """How long to wait for what was posted; None where there is something to do, or no more."""
        if not self._exchanges or not self._posted or self._over:
            return None
        header = self._epoch.header
        try:
            left = averages_due(header.end_block, header.epoch_length) - chain.current_block()
        except SourceUnavailable as fault:
            log.warning("%s", fault)
            return None if now() >= self._ends else _PAUSE
        return min(left * BLOCK, _LOOK_EVERY) if left > 0 else None

    def advance(
        self, submissions: Sequence[SubmissionRecord], scores: EpochScores, session: WebSession
    ) -> timedelta | None:
        """Post, or take the averages; how long to wait for the next step, None where it is over."""
        if not self._exchanges or self._over:
            return None
        settings = self._settings
        if settings.validator_api_key is None:
            return self._alone("VALIDATOR_API_KEY is not set")
        if not settings.sets_weights:
            return self._alone("this validator sets no weights")
        api = ScoreSharing(session, settings.score_share_api_url, settings.validator_api_key.get_secret_value())
        valid = [submission for submission in submissions if submission.state is PartState.VALID]
        document = rules_of(self._epoch).scores_to_post(self._epoch, valid, scores)
        if len(document) == 1:
            return self._alone("this validator has no scores to post")
        try:
            return self._take(api) if self._posted else self._post(api, document)
        except HostUnavailable as fault:
            if now() < self._ends - timedelta(minutes=20):
                log.warning("scores could not be posted yet: %s", fault)
                return _PAUSE
            return self._alone(str(fault))
        except ValidatorError as error:
            return self._alone(str(error))

    def _post(self, api: ScoreSharing, document: Mapping[str, Any]) -> timedelta:
        posted = api.post(document)
        receipt = {"job": posted.job, "status": posted.status, "message": posted.message}
        self._keep(POSTED_FILE, {"document": document, "receipt": receipt})
        return _PAUSE

    def _take(self, api: ScoreSharing) -> timedelta | None:
        kept = self._facts.document(POSTED_FILE) or {}
        document, receipt = kept["document"], kept["receipt"]
        found = api.averages(
            Posted(receipt["job"], receipt["status"], receipt["message"]),
            self._epoch.header.epoch,
            list(dict.fromkeys(row["name"] for row in document.get("molecules", ()))),
            list(dict.fromkeys(row["sequence_hash"] for row in document.get("nanobodies", ()))),
        )
        self._keep(SHARED_FILE, found.document())
        return None

    def _alone(self, why: str) -> timedelta | None:
        note = (
            f"scores were not exchanged with other validators ({why}): the ranks are from this validator's own scores"
        )
        self._keep(SHARED_FILE, Averages(notes=(note,)).document())
        return None

    def _keep(self, name: str, document: Mapping[str, Any]) -> None:
        self._sheet.keep_file(name, (json.dumps(document, indent=1) + "\n").encode())
        self._facts = EpochFacts(self._sheet)

    @property
    def _posted(self) -> bool:
        return self._facts.file(POSTED_FILE) is not None

    @property
    def _over(self) -> bool:
        return self._facts.file(SHARED_FILE) is not None
