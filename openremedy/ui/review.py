"""The review queue: one incident after the other that waits for a person, answered with single keys."""

from flask import g, render_template, request
from flask.typing import ResponseReturnValue

from openremedy import incidents as domain
from openremedy import review as waiting
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.review import Why
from openremedy.ui.access import in_tenant
from openremedy.ui.incidents import shown

SHOWN = 20  # of the queue beside the one in hand
WORDS = {
    Why.UNSURE: "not sure enough",
    Why.NONE: "no recipe fits",
    Why.SUSPICION: "suspicion of injection",
    Why.FAILED: "no verdict came about",
}


@in_tenant("/review")
def review() -> ResponseReturnValue:
    """The first of the queue in full, with the next ones beside it. `why` narrows it, `after` skips."""
    why = next((one for one in Why if one == request.args.get("why")), None)
    after = parse_id(request.args.get("after", ""))
    queue = waiting.queue(db.session(), g.here.id, why, after, SHOWN)
    current = None
    if queue:
        current = shown(domain.detail(db.session(), g.here.id, queue[0].id))
    return render_template(
        "ui/review.html",
        queue=queue,
        why=why,
        after=after,
        words=WORDS,
        counts=waiting.counts(db.session(), g.here.id),
        reason=waiting.reason(db.session(), queue[0].id) if queue else None,
        **(current or {}),
    )
