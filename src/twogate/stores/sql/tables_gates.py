"""The tables of gate two: what operators approved of the servers. As `tables`, whose metadata they share."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, PrimaryKeyConstraint, Table, Text

from twogate.stores.sql.tables import INT, metadata

# What of a server was approved, as one tenant is shown it: a tool, a prompt, or its instructions. `digest` is SHA-256
# in hex over `definition`, the canonical JSON that a person approved.
pins: Final = Table(
    "pins",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("approved_at", INT, nullable=False),
    Column("approved_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "target", name="pins_pk"),
)
