"""Files for a client to download, as they lie in scripts/."""

from pathlib import Path

from flask import Blueprint, Response

MONITOR = Path(__file__).parent.parent / "scripts" / "openremedy-monitor.sh"

blueprint = Blueprint("downloads", __name__)


@blueprint.get("/openremedy-monitor.sh")
def monitor() -> Response:
    """The monitor of a host, for `curl -o`; it holds no secret and nothing of this installation."""
    return Response(MONITOR.read_bytes(), mimetype="text/x-shellscript")
