"""The tables of gate two: what operators approved of the servers, and the uses of operation tokens.

As `tables`, whose metadata they share.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

from twogate.stores.sql.tables import INT, metadata

# What of a server was approved, as one tenant is shown it: a tool, a prompt, or its instructions. `digest` is SHA-256
# in hex over `definition`, the canonical JSON that a person approved.
pins: Final = Table(
    "pins",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("approved_at", INT, nullable=False),
    Column("approved_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "server", "target", name="pins_pk"),
)

# The one use of each operation token, by its `jti`. `event` names the start, `owner` the process that made it. A token
# that nobody used has no row, unless it was deposited.
operations: Final = Table(
    "operations",
    metadata,
    Column("jti", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("event", Text),
    Column("owner", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("started_at", INT),
    Column("finished_at", INT),
    Column("outcome", Text),
    PrimaryKeyConstraint("jti", name="operations_pk"),
    Index("operations_by_expiry", "expires_at"),
    Index("operations_by_state", "state"),
)
