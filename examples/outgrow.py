"""The same handler in one process today, and on a durable road in several tomorrow.

    python -m examples.outgrow
    SHOP_ROAD=sqlite:///shop.db python -m examples.outgrow

It prints:

    welcome, ada
    welcome, bob
    balanced
"""

import asyncio
import os

from msgspec import Struct

from postroad import Postroad, Topic


class SignedUp(Struct):
    name: str


signed_up = Topic("users.signed-up", SignedUp)
road = Postroad(os.environ.get("SHOP_ROAD", "memory://"))  # all that changes


@road.subscribe(signed_up, group="greeting", order="total")
async def greet(user: SignedUp) -> None:
    print(f"welcome, {user.name}")


async def main() -> None:
    async with road.consuming():
        await road.publish_many(signed_up, [SignedUp("ada"), SignedUp("bob")])
        while (await road.lag(group="greeting"))[0].messages:
            await asyncio.sleep(0.01)
        print((await road.audit()).verdict)


if __name__ == "__main__":
    asyncio.run(main())
