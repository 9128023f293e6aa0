"""What Flask and gunicorn cost without any work: a POST whose body is read."""

from flask import Flask, request

app = Flask(__name__)


@app.post("/")
def read() -> tuple[dict[str, int], int]:
    """Read the body and answer as small a JSON object as ours is."""
    return {"bytes": len(request.get_data())}, 202
