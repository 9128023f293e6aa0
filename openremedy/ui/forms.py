"""What pages with forms share: fields that were wrong, and forms that were sent twice."""

import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import isfinite
from typing import Any, TypeVar

from flask import request
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openremedy.errors import Conflict, Invalid
from openremedy.ids import parse_id
from openremedy.models import Submission

ONCE = "form_id"
Word = TypeVar("Word", bound=StrEnum)


def new_form_id() -> str:
    """The number of a form that must not work twice; a hidden field of it."""
    return str(uuid.uuid4())


def once(session: Session) -> None:
    """Note in this transaction that the form was sent. Raises Conflict when it was sent before.

    Two of the same at once: the second waits for the first at the primary key, and then finds it.
    """
    form_id = request.form.get(ONCE, "")
    if parse_id(form_id) is None:
        raise Invalid("The form is incomplete; open it again.")
    session.add(Submission(id=form_id))
    try:
        session.flush()
    except IntegrityError as error:
        session.rollback()
        raise Conflict(
            "This form was sent already, and what it asked for is done. What is shown once is gone."
        ) from error


def text(name: str, limit: int = 1000) -> str:
    """A field of the form, without blanks around it. Raises Invalid."""
    value = request.form.get(name, "").strip()
    if len(value) > limit:
        raise Invalid(fields={name: [f"At most {limit} characters."]})
    if "\0" in value:
        raise Invalid(fields={name: ["Must not contain NUL characters."]})
    return value


def needed(name: str, limit: int = 1000) -> str:
    """The same of a field that must not be empty. Raises Invalid."""
    value = text(name, limit)
    if not value:
        raise Invalid(fields={name: ["Must not be empty."]})
    return value


def whole(name: str, least: int, most: int) -> int | None:
    """A whole number, None where the field is empty. Raises Invalid."""
    value = text(name, 20)
    if not value:
        return None
    if not value.removeprefix("-").isdigit() or not value.isascii() or not least <= int(value) <= most:
        raise Invalid(fields={name: [f"A whole number from {least:,} to {most:,}."]})
    return int(value)


def fraction(name: str, least: float, most: float) -> float | None:
    """A number, None where the field is empty. Raises Invalid."""
    value = text(name, 20)
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not (isfinite(number) and least <= number <= most):
        raise Invalid(fields={name: [f"A number from {least:g} to {most:g}."]})
    return number


def every(**fields: Callable[[], Any]) -> dict[str, Any]:
    """The values of several fields. Raises Invalid that names everything that is wrong, not only the first."""
    values: dict[str, Any] = {}
    wrong: dict[str, Any] = {}
    for name, read in fields.items():
        try:
            values[name] = read()
        except Invalid as problem:
            wrong |= problem.fields or {}
    if wrong:
        raise Invalid(fields=wrong)
    return values


def one_of(name: str, words: type[Word]) -> Word:
    """A word of a list that the form offers. Raises Invalid."""
    try:
        return words(request.form.get(name, ""))
    except ValueError as error:
        raise Invalid(fields={name: ["Choose one of the list."]}) from error


def errors_of(problem: Any) -> Mapping[str, Any]:
    """The messages of a Problem by field, for the template."""
    return getattr(problem, "fields", None) or {}
