"""The road and the outbox. Both are declared here, and connect when they are used."""

from __future__ import annotations

from datetime import timedelta

from examples.shop.settings import DATABASE_URL
from postroad import Outbox, Postroad

# The road and the business share one database here, so that the shop needs no other server. To move
# the road, change its URL and leave `database=`: handlers, outbox and relay stay as they are.
road = Postroad(DATABASE_URL, database=DATABASE_URL, name="shop")

outbox = Outbox(source="shop")

LEASE = timedelta(seconds=5)
"""For how long a consumer that died without a word keeps what it had in hand. Short, so that you
need not wait when you kill one; the default of 30 seconds forgives a process more."""
