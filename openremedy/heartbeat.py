"""When the heartbeat of a source is overdue: judged by its own pace, which nobody tells us. Pure."""

from datetime import datetime

MISSED = 2.5  # gaps that may pass
SHORTEST = 300  # seconds that may always pass
UNTIL_KNOWN = 24 * 3600  # that may pass while the pace is not known
SAME_BEAT = 30  # seconds; what comes so soon is the twin of a pair or another cluster behind the same source


def allowed(gap: int | None) -> int:
    """Seconds that may pass without a beat, where the last two were `gap` seconds apart."""
    return UNTIL_KNOWN if gap is None else max(int(gap * MISSED), SHORTEST)


def learnt(gap: int | None, before: datetime | None, at: datetime) -> int | None:
    """The pace to go by after a beat `at`: that since the one `before`, unless it was the same beat or a silence."""
    seconds = int((at - before).total_seconds()) if before else None
    usual = seconds is not None and SAME_BEAT <= seconds <= allowed(gap)
    return seconds if usual else gap
