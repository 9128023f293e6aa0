"""The only room that reads the environment."""

from config.settings import Settings, SettingsError, load

ADAPTERS = "adapters"  # the package whose folders are the adapters

__all__ = ["ADAPTERS", "Settings", "SettingsError", "load"]
