"""What the environment says."""

from __future__ import annotations

import os
from pathlib import Path

DATABASE_URL = os.environ.get("DATABASE_URL", "sqlite:///shop.db")
"""Orders, payments, stock, the outbox and the road: `sqlite:///…` or `postgresql://…`."""

MAILS = Path(os.environ.get("SHOP_MAILS", "mails.jsonl"))
"""Where the mail provider of this example leaves what it has sent."""
