"""What is wrong right now, and whether the service itself is well."""

from flask import render_template
from flask.typing import ResponseReturnValue

from openremedy.ui.access import in_tenant


@in_tenant("/")
def overview() -> ResponseReturnValue:
    """The first page of a tenant."""
    return render_template("ui/overview.html")
