"""A worker process of the demo: `python -m postroad.demo.worker RECORD`.

It consumes with the app of `app.py` until it gets a SIGTERM, or until its standard input ends,
which happens when the process that started it is gone. `postroad run` does the same for any app.
"""

import asyncio
import signal
import sys
from pathlib import Path

from postroad.demo.app import recorder, road


async def work() -> None:
    """Consume until told to stop, then finish what is in flight."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, told)
    loop.add_reader(sys.stdin, told)
    async with road:
        await road.run(stop=stop)


if __name__ == "__main__":
    recorder.write_to(Path(sys.argv[1]))
    asyncio.run(work())
