"""Accounts, the leases of processes on them, and the ledger."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "accounts",
        Column("key", String, primary_key=True),
        Column("tenant", String, nullable=False),
        Column("provider", String),
        Column("metric", String, nullable=False),
        Column("window", String, nullable=False),
        *[
            Column(name, BigInteger, nullable=False)
            for name in ("limit", "used", "since", "held", "reserved", "recalled")
        ],
    )
    op.create_index("accounts_recalled", "accounts", ["recalled"])
    op.create_table(
        "processes",
        Column("id", String, primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("dead", Boolean, nullable=False),
    )
    op.create_table(
        "leases",
        Column("process", String, primary_key=True),
        Column("key", String, primary_key=True),
        *[Column(name, BigInteger, nullable=False) for name in ("held", "reserved", "presumed", "presumed_since")],
    )
    op.create_table(
        "ledger",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("time", BigInteger, nullable=False),
        Column("request_id", String, nullable=False),
        Column("tenant", String, nullable=False),
        *[Column(name, String) for name in ("task", "provider", "model")],
        *[
            Column(name, BigInteger, nullable=False)
            for name in ("input_tokens", "cached_input_tokens", "output_tokens")
        ],
        Column("cost_nanousd", BigInteger),
        Column("status", Integer, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("policy", String, nullable=False),
        Column("estimated", Boolean, nullable=False),
        Column("presumed", Boolean, nullable=False),
    )
    op.create_index("ledger_time", "ledger", ["time"])
    op.create_index("ledger_tenant_time", "ledger", ["tenant", "time"])
