"""Flask extensions, unbound: create_app() gives them their app."""

from pathlib import Path

from flask_limiter import Limiter
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from openremedy.addresses import client_key
from openremedy.models.base import Base

db = SQLAlchemy(model_class=Base)
# By its full path: not every command is started from the repository root.
migrate = Migrate(directory=str(Path(__file__).parent.parent / "migrations"), render_as_batch=True, compare_type=True)
limiter = Limiter(client_key)
