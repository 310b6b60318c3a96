"""The tables as queries see them; the migrations create them, and a test holds the two to each other.

The same on SQLite and PostgreSQL: text and 64-bit integers only, times in Unix seconds, JSON as text that only Python
reads. Absent users are '' and not NULL, because NULLs are never equal and would slip past comparisons and unique keys.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, PrimaryKeyConstraint, Table, Text

metadata: Final = MetaData()

# SQLite counts rows by INTEGER only.
_INT: Final = BigInteger().with_variant(Integer, "sqlite")

agents: Final = Table(
    "agents",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("tasks", Text, nullable=False),
    Column("default_task", Text),
    Column("concurrent_tasks", _INT, nullable=False),
    Column("created_at", _INT, nullable=False),
    PrimaryKeyConstraint("tenant", "agent", name="agents_pk"),
    CheckConstraint("concurrent_tasks >= 1", name="agents_concurrent_tasks"),
)

# The agent may be one of the configuration, so there is nothing for a foreign key to point at.
bindings: Final = Table(
    "bindings",
    metadata,
    Column("method", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("identifier", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    PrimaryKeyConstraint("method", "issuer", "identifier", name="bindings_pk"),
)

disabled_agents: Final = Table(
    "disabled_agents",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("disabled_at", _INT, nullable=False),
    PrimaryKeyConstraint("tenant", "agent", name="disabled_agents_pk"),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("user_issuer", Text, nullable=False),
    Column("user_subject", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("targets", Text, nullable=False),
    Column("created_at", _INT, nullable=False),
    Column("deadline", _INT, nullable=False),
    Column("ended_at", _INT),
    PrimaryKeyConstraint("id", name="sessions_pk"),
    CheckConstraint("deadline > created_at", name="sessions_deadline"),
    Index("sessions_by_principal", "tenant", "agent", "issuer", "user_issuer", "user_subject", "deadline"),
    Index("sessions_by_deadline", "deadline"),
)

clients: Final = Table(
    "clients",
    metadata,
    Column("client_id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("secret_digests", Text, nullable=False),
    Column("jwks", Text),
    Column("created_at", _INT, nullable=False),
    Column("last_used_at", _INT),
    PrimaryKeyConstraint("client_id", name="clients_pk"),
)

replay: Final = Table(
    "replay",
    metadata,
    Column("digest", Text, nullable=False),
    Column("expires_at", _INT, nullable=False),
    PrimaryKeyConstraint("digest", name="replay_pk"),
    Index("replay_by_expiry", "expires_at"),
)

# One row; `value` grows with every change of security state.
revision: Final = Table(
    "revision",
    metadata,
    Column("id", _INT, nullable=False, autoincrement=False),
    Column("value", _INT, nullable=False),
    PrimaryKeyConstraint("id", name="revision_pk"),
    CheckConstraint("id = 1", name="revision_one_row"),
)

# The replicas that may hold caches, and the last revision that each of them acts on. Unused on SQLite.
leases: Final = Table(
    "leases",
    metadata,
    Column("replica", Text, nullable=False),
    Column("acknowledged", _INT, nullable=False),
    PrimaryKeyConstraint("replica", name="leases_pk"),
)
