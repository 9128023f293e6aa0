"""What gunicorn and the flask command import."""

import sys

from config import SettingsError
from openremedy.app import create_app
from openremedy.registry import AdapterError

try:
    app = create_app()
except (SettingsError, AdapterError) as error:
    print(f"OpenRemedy cannot start: {error}", file=sys.stderr)
    sys.exit(3)  # gunicorn takes 3 for "does not start" and ends; with any other it would try for ever
