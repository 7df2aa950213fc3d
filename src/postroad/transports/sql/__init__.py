"""SQL roads: a log with consumer groups in a database. SQLite is the one of this version."""

from postroad.transports.sql.transport import SqlTransport

__all__ = ["SqlTransport"]
