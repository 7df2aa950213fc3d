"""The public testing kit: the conformance suite for transports, and what tests of users need."""

from postroad.testing.clock import VirtualClock
from postroad.testing.road import TestRoad

__all__ = ["TestRoad", "VirtualClock"]
