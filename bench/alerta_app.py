"""Alerta, as its own documentation has it served; run by the interpreter that has it installed."""

from alerta import create_app  # type: ignore[import-not-found]

app = create_app()
