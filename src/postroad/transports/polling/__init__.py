"""Polling of a business table: rows that are ready become messages of a topic."""

from postroad.transports.polling.source import PollingSource

__all__ = ["PollingSource"]
