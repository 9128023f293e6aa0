"""Alerta behind gunicorn, for the interpreter that has it installed."""

from alerta import create_app

app = create_app()
