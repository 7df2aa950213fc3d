"""`memory://`: the in-process road. It lives and dies with its transport object."""

from postroad.transports.memory.transport import MemoryTransport

__all__ = ["MemoryTransport"]
