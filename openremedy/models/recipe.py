"""Recipes: a tenant's own remediation texts."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Integer, String, Text, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from openremedy.clock import now
from openremedy.models.base import Base, BigId


class Recipe(Base):
    """One recipe as DESIGN 5 has it."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("tenant_id", "slug"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    slug: Mapped[str] = mapped_column(String(100))
    title: Mapped[str] = mapped_column(String(200))
    when: Mapped[str] = mapped_column("when_to_use", Text)
    applies_to: Mapped[list[Any]]
    match: Mapped[dict[str, Any] | None]
    risk: Mapped[str] = mapped_column(String(16))
    steps: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[Any]]
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    # Raised with every change: whoever saves names the version that was read.
    version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class RecipeVersion(Base):
    """What a recipe was at one version; stays when the recipe goes."""

    __tablename__ = "recipe_versions"
    __table_args__ = (UniqueConstraint("tenant_id", "slug", "version"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    slug: Mapped[str] = mapped_column(String(100))
    version: Mapped[int] = mapped_column(Integer)
    # The fields of recipes.RecipeSpec.
    spec: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(300))
    created_at: Mapped[datetime] = mapped_column(default=now)
