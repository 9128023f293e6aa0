"""OpenRemedy: the incident intake that classifies every alert and names the recipe that fits."""

__version__ = "0.1.0"
