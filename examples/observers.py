"""The observer pattern and streams of events, inside one process. Needs `postroad[streams]`.

    python -m examples.observers

It prints:

    display: 71 °C
    display: 85 °C
    display: 93 °C
    display: 64 °C
    display: 90 °C
    alarm: [85, 93, 90]
"""

import asyncio
from datetime import timedelta

from aiostream import pipe, stream
from msgspec import Struct

from postroad import Postroad, Topic
from postroad.delivery import streams


class Reading(Struct):
    celsius: int


readings = Topic("boiler.readings", Reading)
road = Postroad("memory://")


@road.observe(readings)
def display(reading: Reading) -> None:
    print(f"display: {reading.celsius} °C")


@road.observe(readings)
async def broken(reading: Reading) -> None:
    raise RuntimeError("reaches Hooks.observer_failed, neither the publisher nor the display")


async def watch() -> None:
    """Three readings above 80 °C, or what there is of them after a minute, are an alarm."""
    hot = (
        stream.iterate(road.stream(readings))
        | pipe.map(lambda reading: reading.celsius)
        | pipe.filter(lambda celsius: celsius > 80)
        | streams.buffer.pipe(3, timedelta(minutes=1))
        | pipe.take(1)
    )
    async with hot.stream() as alarms:
        async for alarm in alarms:
            print(f"alarm: {alarm}")


async def main() -> None:
    async with road:
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.05)  # a stream begins when it is first asked for
        for celsius in (71, 85, 93, 64, 90):
            await road.publish(readings, Reading(celsius))
        await watching


if __name__ == "__main__":
    asyncio.run(main())
