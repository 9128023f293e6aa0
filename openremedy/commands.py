"""What all commands of the command line share: the answer as JSON or as text, and secrets from standard input."""

import json
import math
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from sqlalchemy.exc import OperationalError, ProgrammingError

from openremedy.errors import Problem


def answering(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`: the command returns (answer, text) and this prints the one that was asked for.

    What a person is told besides goes to standard error. A Problem becomes one line and exit code 1.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    @wraps(command)
    def run(as_json: bool, **arguments: Any) -> None:
        try:
            answer, text = command(**arguments)
        except Problem as problem:
            raise click.ClickException(problem.sentence()) from problem
        except (OperationalError, ProgrammingError) as error:
            # Without the statement: it may hold what must not be shown.
            raise click.ClickException(
                f"The database cannot be used ({type(error.orig).__name__}); flask doctor says why."
            ) from error
        click.echo(json.dumps(answer) if as_json else text)

    return run


def value_of(given: str | None) -> str | None:
    """An option's value; `-` reads it from standard input, so that it stays out of the process list."""
    return sys.stdin.readline().rstrip("\r\n") if given == "-" else given


def real(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Of an option that is a number: refuses what is none."""
    if value is not None and not math.isfinite(value):  # click's range lets it through
        raise click.BadParameter("is no number.")
    return value
