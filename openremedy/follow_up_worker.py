"""The worker's side of follow-ups: reads again what the body asks for, and sends it.

Read again from the stored body, by today's code and the options of today: no URL is kept anywhere, and one that was
taken out of the options meanwhile is not asked any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from openremedy import follow_ups, replay
from openremedy.adapter import Adapter, FollowUp
from openremedy.errors import Problem
from openremedy.fetching import Fetcher, NoDocument
from openremedy.follow_ups import Claimed
from openremedy.models import Delivery, Source

log = structlog.get_logger()

AT_ONCE = 3  # in one job, so that incidents wait no longer than these take
LATER = (408, 429)  # of all 4xx those that are no last word


@dataclass(frozen=True)
class FollowUps:
    """One per worker."""

    engine: Engine
    fetcher: Fetcher
    adapters: Mapping[str, Adapter]

    def __call__(self) -> bool:
        """Send what is due, a few of them; whether there is more."""
        for _ in range(AT_ONCE):
            one = follow_ups.claim(self.engine)
            if one is None:
                break
            self._do(one)
        return follow_ups.waiting(self.engine)

    def _do(self, one: Claimed) -> None:
        wanted = self._wanted(one)
        if wanted is None:
            follow_ups.failed(self.engine, one, "What asked for this is gone, or is not to be answered.", final=True)
            return
        try:
            status = self.fetcher.get(wanted.url).status
        except NoDocument as problem:
            self._failed(one, f"The tool did not answer: {problem}.", final=False)
            return
        if status == 200:
            follow_ups.done(self.engine, one)
            log.info("follow_up.done", source=one.source_id, subject=one.subject, attempt=one.attempts)
            return
        self._failed(one, f"The tool answered {status}.", final=400 <= status < 500 and status not in LATER)

    def _failed(self, one: Claimed, words: str, final: bool) -> None:
        log.warning("follow_up.failed", source=one.source_id, subject=one.subject, reason=words, attempt=one.attempts)
        follow_ups.failed(self.engine, one, words, final=final)

    def _wanted(self, one: Claimed) -> FollowUp | None:
        with (
            self.engine.connect().execution_options(sqlite_readonly=True) as connection,
            Session(connection) as session,
        ):
            source = session.get(Source, one.source_id)
            delivery = session.get(Delivery, one.delivery_id)
            adapter = self.adapters.get(source.adapter) if source else None
            if source is None or source.disabled_at or delivery is None or adapter is None:
                return None
            try:
                wanted = replay.read(adapter, delivery, source).follow_up
            except Problem:  # today's code does not take the body any more
                return None
        return wanted if wanted and wanted.url else None
