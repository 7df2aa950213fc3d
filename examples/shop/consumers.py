"""All consumers on one road: `postroad run examples.shop.consumers:road`.

One of them alone, in a process of its own: `postroad run examples.shop.payment:road`.
"""

from __future__ import annotations

from examples.shop import notifications, payment, warehouse
from examples.shop.road import road

__all__ = ["notifications", "payment", "road", "warehouse"]
