"""How well each recipe does: how often it was named, by which tier, and what people said of that."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from openremedy.models import Feedback, Incident, Verdict, now
from openremedy.shares import Interval, wilson

DAYS = 30


@dataclass
class Scorecard:
    """Of one recipe. `named` counts incidents whose verdict in force names it; `corrected_to` those that a person gave
    to it; the other three what people said where it was named first.
    """

    by_tier: dict[str, int] = field(default_factory=dict)
    last_named: datetime | None = None
    confirmed: int = 0
    corrected_away: int = 0
    corrected_to: int = 0
    none_fits: int = 0

    @property
    def named(self) -> int:
        return sum(self.by_tier.values())

    @property
    def answered(self) -> int:
        return self.confirmed + self.corrected_away + self.none_fits

    @property
    def precision(self) -> float | None:
        """The share of answers that confirm it; None where nobody has answered."""
        return self.confirmed / self.answered if self.answered else None

    @property
    def precision_interval(self) -> Interval | None:
        """Where that share lies with a chance of 95 % (Wilson): few answers tell little."""
        return wilson(self.confirmed, self.answered)


def scorecards(session: Session, tenant_id: int, days: int = DAYS) -> dict[str, Scorecard]:
    """The scorecards of the last `days` by slug, also of recipes that are gone; a slug without one was never named."""
    since = now() - timedelta(days=days)
    cards: dict[str, Scorecard] = defaultdict(Scorecard)
    _count_verdicts(session, tenant_id, since, cards)
    _count_answers(session, tenant_id, since, cards)
    return dict(cards)


def _count_verdicts(session: Session, tenant_id: int, since: datetime, cards: dict[str, Scorecard]) -> None:
    statement = (
        select(Verdict.recipe, Verdict.tier, func.count(), func.max(Verdict.created_at))
        .join(Incident, Incident.verdict_id == Verdict.id)
        .where(
            Incident.tenant_id == tenant_id,
            Verdict.tenant_id == tenant_id,
            Verdict.recipe.is_not(None),
            Verdict.created_at > since,
        )
        .group_by(Verdict.recipe, Verdict.tier)
    )
    for slug, tier, count, last in session.execute(statement):
        card = cards[str(slug)]
        card.by_tier[tier] = count
        card.last_named = max(filter(None, (card.last_named, last)))


def _count_answers(session: Session, tenant_id: int, since: datetime, cards: dict[str, Scorecard]) -> None:
    """Somebody who thinks again counts once for an incident: what was suggested at first, and what was said last."""
    ends = (
        select(func.min(Feedback.id).label("first"), func.max(Feedback.id).label("last"))
        .where(Feedback.tenant_id == tenant_id, Feedback.created_at > since)
        .group_by(Feedback.incident_id)
        .subquery()
    )
    first, last = aliased(Feedback), aliased(Feedback)
    statement = (
        select(first.suggested, last.recipe, func.count())
        .select_from(ends)
        .join(first, first.id == ends.c.first)
        .join(last, last.id == ends.c.last)
        .group_by(first.suggested, last.recipe)
    )
    for suggested, chosen, count in session.execute(statement):
        _count_answer(suggested, chosen, count, cards)


def _count_answer(suggested: str | None, chosen: str | None, count: int, cards: dict[str, Scorecard]) -> None:
    if chosen == suggested:
        if chosen is not None:
            cards[chosen].confirmed += count
        return
    if chosen is not None:
        cards[chosen].corrected_to += count
    if suggested is None:
        return
    if chosen is None:
        cards[suggested].none_fits += count
    else:
        cards[suggested].corrected_away += count
