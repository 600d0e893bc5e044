"""Self-service keys."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "api_keys",
        Column("id", String, primary_key=True),
        Column("tenant", String, nullable=False),
        Column("digest", LargeBinary, nullable=False),
        Column("note", String, nullable=False),
        *[Column(name, BigInteger, nullable=False) for name in ("created_at", "expires_at")],
        Column("revoked_at", BigInteger),
        Column("rotated_from", String),
        Column("last_used_at", BigInteger),
    )
    op.create_index("api_keys_tenant", "api_keys", ["tenant"])
    op.create_index("api_keys_digest", "api_keys", ["digest"], unique=True)
    op.create_index("api_keys_rotated_from", "api_keys", ["rotated_from"], unique=True)
    state = op.create_table(
        "key_state",
        Column("id", Integer, primary_key=True),
        Column("version", BigInteger, nullable=False),
        Column("pepper_check", LargeBinary),
    )
    op.bulk_insert(state, [{"id": 1, "version": 0}])
