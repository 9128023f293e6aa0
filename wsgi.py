"""What gunicorn and the flask command import."""

from openremedy.app import create_app

app = create_app()
