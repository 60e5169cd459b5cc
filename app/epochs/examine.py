"""Examining one submission: fetch → check the hash → open the time-lock → parse → judge its items."""

from __future__ import annotations

from app.domain import Challenge, Commitment, SubmissionRejected
from app.epochs.facts import EpochFacts
from app.epochs.rules import RuleSet
from app.store.records import Examination
from chain.github_path import parse_github_path
from chain.submission import fetch_submission, open_submission, parse_submission


class Examiner:
    """Examines an epoch's submissions; holds what they share (database, archive, rules) for the worker's next one."""

    def __init__(self, facts: EpochFacts, rules: RuleSet, challenge: Challenge) -> None:
        self._facts = facts
        self._rules = rules
        self._inspect = rules.inspection(facts, challenge)

    def examine(self, uid: int, commitment: Commitment) -> Examination:
        """Fetch, decrypt and judge one submission; a refusal is a result, not an exception."""
        push_time = ""
        try:
            push_time = self._facts.push_time(parse_github_path(commitment.data))
            sealed = parse_submission(fetch_submission(self._facts, commitment))
            found = self._inspect(uid, self._rules.parse(open_submission(self._facts, uid, sealed)))
        except SubmissionRejected as refusal:
            return Examination(push_time, rejection=refusal.rejection)
        return Examination(push_time, found.molecules, found.entropy, found.rejection, found.tracks)
