"""The web UI: pages rendered here, readable without a script, a little htmx for what moves, nothing from elsewhere."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError

from openremedy import __version__, people
from openremedy import review as waiting
from openremedy.errors import Problem
from openremedy.extensions import db
from openremedy.services import services
from openremedy.ui import (  # noqa: F401 - importing them mounts their pages
    access,
    admin,
    audit_log,
    deliveries,
    incident_list,
    incidents,
    members,
    oidc,
    outgoing,
    overview,
    recipes,
    review,
    settings,
    sign_in,
    sources,
    tryout,
    words,
)
from openremedy.ui.access import Ended, SignInFirst, blueprint
from openremedy.ui.forms import errors_of, new_form_id

STATIC = Path(__file__).parent.parent / "static"
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "font", "manifest")),
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "object-src 'none'",
    ]
)
YEAR = 365 * 24 * 3600
MOST_PLACES = 30  # in the menu; the rest is on the page of all


def register(app: Flask) -> None:
    """Mount the pages."""
    app.config.update(
        WTF_CSRF_CHECK_DEFAULT=False,  # the pages ask for it themselves: webhooks and the API have no session
        WTF_CSRF_TIME_LIMIT=None,  # as long as the sign-in
        WTF_CSRF_SSL_STRICT=False,  # it wants a Referer, which private browsers do not send
    )
    access.csrf.init_app(app)
    words.register(app)
    app.register_blueprint(blueprint)


@blueprint.app_context_processor
def _common() -> dict[str, Any]:
    """What every page may use."""
    return {
        "asset": asset,
        "errors_of": errors_of,
        "new_form_id": new_form_id,
        "release": __version__,
        "visitor": g.get("visitor"),
        "here": g.get("here"),
        "places": _places,
        "review_count": _review_count,
        "single_sign_on": _single_sign_on(),
    }


def _single_sign_on() -> str | None:
    """What its button says, where there is one."""
    chosen = services().settings
    return chosen.oidc_name if chosen.oidc_issuer else None


def _places() -> list[people.Place]:
    user = people.get_user(db.session(), str(g.visitor.user_id))
    return people.places(db.session(), user, MOST_PLACES)


def _review_count() -> int:
    """How many open incidents wait for a person."""
    return waiting.count(db.session(), g.here.id)


@cache
def _version_of(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """The address of a file of ours; another content has another address, so it may be kept for a year."""
    return url_for("ui.static", filename=name, v=_version_of(name))


@blueprint.after_request
def _headers(response: Response) -> Response:
    if request.endpoint == "ui.static":
        if response.status_code >= 400:
            return response  # whatever was asked for, it is no file of ours to look at
        fresh = request.args.get("v") == _version_of(str((request.view_args or {}).get("filename", "")))
        response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable" if fresh else "no-cache"
        return response
    secure(response)
    return response


def secure(response: Response) -> None:
    """The headers of a page."""
    response.headers["Content-Security-Policy"] = POLICY
    # Where a form was sent from is ours to know; nobody else learns which page it was.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
    response.headers["X-Frame-Options"] = "DENY"
    response.vary.add("Cookie")


# ---------------------------------------------------------------- errors as pages


def wants_page() -> bool:
    """Whether an error is to be read by a person: on our pages, or where a browser has lost its way."""
    if request.blueprint == blueprint.name:
        return request.endpoint != "ui.static"
    return not request.path.startswith("/api") and "text/html" in request.headers.get("Accept", "")


def error_page(problem: Problem) -> ResponseReturnValue:
    """The page for a Problem; who is not signed in is shown the way in."""
    if isinstance(problem, SignInFirst | Ended) and request.headers.get("HX-Request"):
        return "", 401, {"HX-Redirect": url_for("ui.sign_in")}
    if isinstance(problem, SignInFirst):
        return access.to_sign_in()
    if isinstance(problem, Ended):
        return _page(sign_in.ended_page(problem))
    return _page((render_template("ui/error.html", problem=problem), problem.status, problem.headers))


def _page(value: Any) -> Response:
    """A response with the headers of a page, also where no page of ours was asked for."""
    response = make_response(value)
    secure(response)
    return response


@blueprint.app_errorhandler(CSRFError)
def _csrf(_error: CSRFError) -> ResponseReturnValue:
    problem = Problem(
        "This page has been open for too long, or was not opened by you. "
        "Go back, copy what you have typed, reload the page, and send it again."
    )
    problem.status = 400
    problem.code = "csrf"
    return error_page(problem)
