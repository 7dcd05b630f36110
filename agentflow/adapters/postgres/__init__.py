"""PostgreSQL: the journal, its projections, and every other thing that must not be lost."""

from agentflow.adapters.postgres.migrate import migrate
from agentflow.adapters.postgres.store import PostgresStore

__all__ = ["PostgresStore", "migrate"]
