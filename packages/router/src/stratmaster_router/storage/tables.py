"""The tables. Times are microseconds since 1970, money is nano-dollars; `migrations` holds how they came about."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

# SQLite counts rows by itself only in a column that is exactly INTEGER.
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")

accounts = Table(
    "accounts",
    metadata,
    Column("key", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("provider", String),
    Column("metric", String, nullable=False),
    Column("window", String, nullable=False),
    # As the policy had it when a process last used the account.
    Column("limit", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("recalled", BigInteger, nullable=False),
    Index("accounts_recalled", "recalled"),
)

processes = Table(
    "processes",
    metadata,
    Column("id", String, primary_key=True),
    # Of its last exchange.
    Column("number", BigInteger, nullable=False),
    # Of the dead: when they were found to be.
    Column("expires_at", BigInteger, nullable=False),
    Column("dead", Boolean, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("process", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("held", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    # What a dead process is presumed to have spent, in the window that began at `presumed_since`.
    Column("presumed", BigInteger, nullable=False),
    Column("presumed_since", BigInteger, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("time", BigInteger, nullable=False),
    Column("request_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("task", String),
    Column("provider", String),
    Column("model", String),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger),
    Column("status", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("policy", String, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("presumed", Boolean, nullable=False),
    Index("ledger_time", "time"),
    Index("ledger_tenant_time", "tenant", "time"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    # The one that it belongs to; it never changes.
    Column("tenant", String, nullable=False),
    # Of the whole key, keyed with the pepper.
    Column("digest", LargeBinary, nullable=False),
    Column("note", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    # No key has two successors.
    Column("rotated_from", String),
    Column("last_used_at", BigInteger),
    Index("api_keys_tenant", "tenant"),
    Index("api_keys_digest", "digest", unique=True),
    Index("api_keys_rotated_from", "rotated_from", unique=True),
)

# One row.
key_state = Table(
    "key_state",
    metadata,
    Column("id", Integer, primary_key=True),
    # Another one after each change of the keys, last uses excepted.
    Column("version", BigInteger, nullable=False),
    # Tells whether a process has the pepper that the keys were made with.
    Column("pepper_check", LargeBinary),
)
