"""The tables of calls that wait for people. As `tables`, whose metadata they share."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

from twogate.stores.sql.tables import INT, metadata

# Calls that wait, or waited, for people. `rule` is JSON; `params` is the sealed call, base64url, `result` the sealed
# answer once it ran. `live` names the very call of the very caller, until its deadline: an identical one finds the same
# row. NULL afterwards, so that the key is free again.
approvals: Final = Table(
    "approvals",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("user_issuer", Text, nullable=False),
    Column("user_subject", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("pin", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("live", Text),
    Column("state", Text, nullable=False),
    Column("created_at", INT, nullable=False),
    Column("deadline", INT, nullable=False),
    Column("decided_at", INT),
    Column("result", Text),
    Column("reminded_at", INT),
    Column("escalated_at", INT),
    PrimaryKeyConstraint("id", name="approvals_pk"),
    Index("approvals_live", "live", unique=True),
    Index("approvals_by_state", "tenant", "state", "created_at"),
    Index("approvals_by_agent", "tenant", "agent", "created_at"),
    Index("approvals_by_deadline", "deadline"),
    Index("approvals_by_turn", "state", "created_at"),
)

# What people said: one vote of each. `assertion` is what the passkey signed, JSON; '' for a denial.
approval_votes: Final = Table(
    "approval_votes",
    metadata,
    Column("approval", Text, nullable=False),
    Column("approver", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("assertion", Text, nullable=False),
    Column("at", INT, nullable=False),
    PrimaryKeyConstraint("approval", "approver", name="approval_votes_pk"),
)

# Messages about them, one for each reason (`kind`) and channel. `state` is due, sent, summed (another one stood for
# it), moot or failed; whoever sends one moves `next_at` into the future first.
notices: Final = Table(
    "notices",
    metadata,
    Column("approval", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", INT, nullable=False),
    Column("created_at", INT, nullable=False),
    Column("next_at", INT, nullable=False),
    Column("last_at", INT),
    Column("ended_at", INT),
    PrimaryKeyConstraint("approval", "kind", "channel", name="notices_pk"),
    Index("notices_by_turn", "channel", "state", "next_at"),
    Index("notices_by_time", "channel", "last_at"),
    Index("notices_by_age", "created_at"),
)
