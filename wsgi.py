"""What gunicorn and the flask command import."""

import gc
import sys

gc.disable()  # what is imported stays; to look for garbage in it meanwhile is a tenth of a start

from config import SettingsError  # noqa: E402 - see above
from openremedy.app import create_app  # noqa: E402 - the same
from openremedy.registry import AdapterError  # noqa: E402 - the same

try:
    app = create_app()
except (SettingsError, AdapterError) as error:
    print(f"OpenRemedy cannot start: {error}", file=sys.stderr)
    sys.exit(3)  # gunicorn takes 3 for "does not start" and ends; with any other it would try for ever
gc.enable()
