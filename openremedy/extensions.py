"""Flask extensions, unbound: create_app() gives them their app."""

from flask_limiter import Limiter
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from openremedy.addresses import client_key
from openremedy.models.base import Base

db = SQLAlchemy(model_class=Base)
migrate = Migrate(render_as_batch=True, compare_type=True)
limiter = Limiter(client_key)
