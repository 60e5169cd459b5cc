"""drand quicknet over HTTP: signatures that are proven before they are believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from app.observability.metrics import Fault, Service, service_failed
from app.untrusted import read_json, shown
from chain.sources import RoundNotReached, SourceUnavailable
from chain.timelock import QUICKNET_CHAIN, TimelockError, round_time, verified_signature
from chain.web import HostUnavailable, WebSession

_OK, _NOT_FOUND, _TOO_EARLY = 200, 404, 425

_MAX_PULSE_BYTES: Final = 16 * 1024

# An endpoint may serve a round this long (s) after it is due, and clocks differ by about as much.
_PUBLISHED_AFTER: Final = 30.0


class Drand:
    """Several endpoints of one beacon, tried in turn; last, what the chain itself stored.

    Args:
        urls: base addresses.
        stored: a round's signature from the chain's own storage, or None.
        warn: takes a sentence for the epoch's report when an endpoint is skipped for lying.
    """

    def __init__(
        self,
        session: WebSession,
        urls: Sequence[str],
        stored: Callable[[int], str | None],
        warn: Callable[[str], None],
    ) -> None:
        self._session = session
        self._urls = urls
        self._stored = stored
        self._warn = warn

    def signature(self, drand_round: int) -> str:
        """The round's signature, 96 hex digits, proven.

        Raises:
            RoundNotReached: every endpoint that answers says so, and none that fails could know better.
            SourceUnavailable: no endpoint gave a signature that verifies.
        """
        faults: list[str] = []
        not_reached = 0
        for url in self._urls:
            try:
                return self._from_endpoint(url, drand_round)
            except RoundNotReached:
                not_reached += 1
            except SourceUnavailable as fault:
                faults.append(str(fault))
        if not_reached and (not faults or time.time() < round_time(drand_round) + _PUBLISHED_AFTER):
            raise RoundNotReached(drand_round)
        return self._from_chain(drand_round, faults)

    def _from_endpoint(self, url: str, drand_round: int) -> str:
        address = f"{url}/{QUICKNET_CHAIN}/public/{drand_round}"
        answer = self._session.get(address, _MAX_PULSE_BYTES, service=Service.DRAND)
        if answer.status in {_NOT_FOUND, _TOO_EARLY}:
            raise RoundNotReached(drand_round)
        if answer.status != _OK:
            service_failed(Service.DRAND, Fault.REFUSED)
            raise HostUnavailable(f"{url} answers with status {answer.status}")
        try:
            pulse = read_json(answer.body)
            if pulse["round"] != drand_round:
                raise TimelockError(f"answered with round {shown(pulse['round'], 20)} instead of {drand_round}")
            return verified_signature(drand_round, str(pulse["signature"]))
        except (ValueError, LookupError, TypeError):
            fault = f"{url} answers drand round {drand_round} with something that is no pulse; it was skipped"
        except TimelockError as error:
            fault = f"{url} lies about drand round {drand_round} ({error}); it was skipped"
        service_failed(Service.DRAND, Fault.MALFORMED)
        self._warn(fault)
        raise SourceUnavailable(fault)

    def _from_chain(self, drand_round: int, faults: list[str]) -> str:
        try:
            stored = self._stored(drand_round)
            if stored:
                return verified_signature(drand_round, stored)
            faults.append("the chain has not stored it")
        except (SourceUnavailable, TimelockError) as error:
            faults.append(str(error))
        raise SourceUnavailable(f"no signature of drand round {drand_round}: {'; '.join(dict.fromkeys(faults))}")
