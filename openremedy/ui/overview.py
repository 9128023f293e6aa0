"""What is wrong right now, and whether the service itself is well."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import g, render_template
from flask.typing import ResponseReturnValue

from openremedy.alerts import IncidentType, Severity
from openremedy.extensions import db
from openremedy.overview import Hour
from openremedy.overview import overview as look
from openremedy.services import services
from openremedy.ui.access import in_tenant

WIDTH, HEIGHT, FOOT = 960, 150, 18  # of the chart, in its own units


@in_tenant("/")
def overview() -> ResponseReturnValue:
    """The first page of a tenant."""
    return render_template("ui/overview.html", **_shown())


@in_tenant("/overview-live")
def overview_live() -> ResponseReturnValue:
    """The same without its frame, for a page that stays open."""
    return render_template("ui/overview_live.html", **_shown())


def _shown() -> dict[str, object]:
    seen = look(db.session(), services(), g.here.id)
    kinds = [kind for kind in IncidentType if any(hour.by_type.get(kind) for hour in seen.hours)]
    return {
        "seen": seen,
        "severities": list(Severity),
        "bars": _bars(seen.hours),
        "kinds": [(kind, _colour(kind)) for kind in kinds],
        "ceiling": ceiling(seen.hours),
        "chart": (WIDTH, HEIGHT, FOOT),
        "began": sum(sum(hour.by_type.values()) for hour in seen.hours),
    }


@dataclass(frozen=True)
class Bar:
    """One piece of a stacked bar; `colour` is the number of a class of the stylesheet."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    words: str


def _colour(kind: str) -> int:
    return list(IncidentType).index(IncidentType(kind))


def ceiling(hours: Sequence[Hour]) -> int:
    """The top of the scale: the next round number over the busiest hour, whose half is a whole one."""
    most = max((sum(hour.by_type.values()) for hour in hours), default=0)
    steps: list[int] = [step * 10**power for power in range(7) for step in (2, 4, 6, 10)]
    return next((step for step in steps if step >= max(most, 4)), most + most % 2)


def _bars(hours: Sequence[Hour]) -> list[Bar]:
    scale = HEIGHT / ceiling(hours)
    step = WIDTH / len(hours)
    bars: list[Bar] = []
    for number, hour in enumerate(hours):
        top = float(HEIGHT)
        for kind in IncidentType:
            count = hour.by_type.get(kind, 0)
            if count:
                top -= count * scale
                words = f"{hour.start:%H}:00 UTC: {count} {str(kind).replace('_', ' ')}"
                bars.append(Bar(number * step + 2, top, step - 4, count * scale, _colour(kind), words))
    return bars
