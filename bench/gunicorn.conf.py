"""How gunicorn serves the candidates that are not ours: as it serves us, but for what only ours can load and count."""

import runpy
from pathlib import Path

globals().update(runpy.run_path(str(Path(__file__).parent.parent / "config/gunicorn.conf.py")))

del on_starting, on_exit  # noqa: F821 # they come from there
