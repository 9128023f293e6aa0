"""What every answer has in common: a request id, safe headers, a line in the log, one shape for errors."""

import math
import secrets
import time
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from flask import Flask, Response, g, request
from flask.globals import app_ctx, request_ctx
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import ProgrammingError
from werkzeug.exceptions import BadHost, HTTPException, SecurityError

from openremedy import edge, logs, meters, traces, ui
from openremedy.database import FAILED, OTHER_SCHEMA
from openremedy.errors import Invalid, NotFound, Problem, Unavailable
from openremedy.extensions import limiter
from openremedy.services import services

log = structlog.get_logger()

# The codes of DESIGN 3.3 for what Flask itself refuses.
CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_encoding",
    422: "validation_error",
    429: "rate_limited",
    503: "unavailable",
}
PARTS = {"webhooks": "canonical", "ui": "pages"}
UNTRACED = ("health", "metrics")  # asked every few seconds
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
}


def register(app: Flask) -> None:
    """Give every answer its request id, its headers and, when it is an error, the one shape."""
    # Before and after those that an extension or the pages have added already.
    app.before_request_funcs.setdefault(None, []).insert(0, _begin)
    app.after_request_funcs.setdefault(None, []).insert(0, _finish)  # these run from the last to the first
    app.teardown_request_funcs.setdefault(None, []).insert(0, _end)
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_error)
    for failed in FAILED:
        app.register_error_handler(failed, _database_away)
    for wrong in (psycopg.ProgrammingError, ProgrammingError):
        app.register_error_handler(wrong, _statement_wrong)
    app.register_error_handler(Exception, _unexpected)


# The request and `g` themselves in these two: through flask.request and flask.g they are found anew each time that they
# are named: two microseconds of an alert's 700, and it was 45 times where it is 24 now.
def _begin() -> None:
    asked, kept = request_ctx.request, app_ctx.g
    request_id = secrets.token_hex(16)  # each of its bits by chance: what is sampled goes by it
    kept.request_id = request_id
    kept.started = time.perf_counter()
    logs.begin(request_id=request_id)
    if asked.blueprint not in UNTRACED:
        kept.trace = traces.of_request(request_id, asked.method)


def _finish(response: Response) -> Response:
    asked, kept = request_ctx.request, app_ctx.g
    there = {name.lower() for name, _ in response.headers}
    for name, value in SECURITY_HEADERS.items():
        if name.lower() not in there:
            response.headers.add(name, value)
    response.headers["X-Request-ID"] = kept.request_id
    _set_retry_after(response, kept.get("retry_after"))
    took = time.perf_counter() - kept.started
    meters.answered(_part(asked.blueprint), response.status_code, took)
    route = asked.url_rule.rule if asked.url_rule else None
    if trace := kept.get("trace"):
        trace.answered(route, response.status_code)
    log.info(
        "request.done",
        method=asked.method,
        route=route,
        status=response.status_code,
        ms=round(took * 1000, 1),
    )
    return response


def _end(_error: BaseException | None) -> None:
    if trace := g.pop("trace", None):
        trace.end()


def _part(blueprint: str | None) -> str:
    """What was asked, as /metrics calls it: an adapter, canonical, api, pages, or none of what we have."""
    name = blueprint or "none"
    return PARTS.get(name) or name.removeprefix("native_")


def _set_retry_after(response: Response, retry_after: str | None) -> None:
    """Only where waiting helps. What a limit has left is another turn to Redis, so it is asked for here alone."""
    if retry_after:
        response.headers["Retry-After"] = retry_after
    elif response.status_code == HTTPStatus.TOO_MANY_REQUESTS and limiter.current_limit:
        response.headers["Retry-After"] = str(max(1, math.ceil(limiter.current_limit.reset_at - time.time())))


def _problem(problem: Problem) -> ResponseReturnValue:
    edge.remember_refusal(problem)
    _remember_stray(problem)
    return ui.error_page(problem) if ui.wants_page() else _as_json(problem)


def _as_json(problem: Problem) -> ResponseReturnValue:
    g.retry_after = problem.headers.get("Retry-After")
    error: dict[str, Any] = {"code": problem.code, "message": problem.message}
    if problem.fields:
        error["fields"] = problem.fields
    return {"error": error, "request_id": g.request_id}, problem.status, problem.headers


def _remember_stray(problem: Problem) -> None:
    """Somebody known who asks for what is not theirs leaves a line in the audit log, as whoever guesses an id does."""
    visitor = g.get("visitor")
    actor = g.get("actor") or (visitor and visitor.actor)
    if isinstance(problem, NotFound) and actor and request.url_rule:
        tenant_id = g.get("tenant_id") or (g.here.id if "here" in g else None)
        services().tally.strayed(actor, tenant_id, str(request.url_rule))


def _http_error(error: HTTPException) -> ResponseReturnValue:
    """What Flask and its extensions refuse, in our one shape."""
    if isinstance(error, SecurityError):
        log.warning("host.refused", hint="the Host header is none of OPENREMEDY_TRUSTED_HOSTS")
        return _as_json(NotFound())  # a page has links, and there is no address to link to
    status = error.code or 500
    problem = Problem(_words(error, status), code=CODES.get(status, _code_of(status)), fields=_fields(error))
    problem.status = status
    allowed = getattr(error, "valid_methods", None)  # of a 405
    if isinstance(allowed, list | tuple | set):
        problem.headers["Allow"] = ", ".join(sorted(allowed))
    return _as_json(problem) if isinstance(error, BadHost) else _problem(problem)  # no host, so no links either


def _code_of(status: int) -> str:
    return "internal" if status >= 500 else Invalid.code


def _words(error: HTTPException, status: int) -> str:
    """Ours for what senders meet. Those of Werkzeug are for people too, but some quote the request."""
    own = {404: NotFound.message, 422: Invalid.message, 429: "Too many requests from your address; see Retry-After."}
    return own.get(status) or (HTTPStatus(status).phrase if status == 400 else error.description or "")


def _fields(error: HTTPException) -> dict[str, Any] | None:
    """The messages of webargs, without the name of the place they were read from."""
    messages = getattr(error, "data", {}).get("messages", {})
    return {name: found for place in messages.values() for name, found in place.items()} or None


def _database_away(error: Exception) -> ResponseReturnValue:
    log.error("database.away", error=type(error).__name__)
    return _problem(Unavailable())


def _statement_wrong(error: psycopg.ProgrammingError | ProgrammingError) -> ResponseReturnValue:
    cause = error.orig if isinstance(error, ProgrammingError) else error
    return _database_away(error) if isinstance(cause, OTHER_SCHEMA) else _unexpected(error)


def _unexpected(error: Exception) -> ResponseReturnValue:
    log.exception("request.failed", error=type(error).__name__)
    return _problem(Problem())
