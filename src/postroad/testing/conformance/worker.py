"""A process of its own, for tests that kill one.

Its argument is one JSON object (`Job`). What it did it prints, a message id a line, after the road
has confirmed it; then it waits for its end. The first line is `ready`.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from importlib import import_module
from typing import Any, Literal, cast

import msgspec

from postroad.core.delivery import Settlement
from postroad.core.message import Message, new_id
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan, Source, Transport
from postroad.testing.conformance.bench import BYTES, STEP, make_topic, now_us


class Job(msgspec.Struct):
    """What the process is to do.

    Attributes:
        process: how to make the transport, as in `Road.process`.
        task: `publish` one by one; `hold` what it receives, begun and unsettled; `consume` in
            batches of `count`, for ever.
        topic: name of the topic.
        partitions: of the topic.
        count: how many to publish or hold.
        lease: in seconds.
        ordered: as in `Plan`.
    """

    process: tuple[str, ...]
    task: Literal["publish", "hold", "consume"]
    topic: str
    partitions: int = 1
    count: int = 10
    lease: float = 30.0
    ordered: bool = False


def make_transport(process: tuple[str, ...]) -> Transport:
    """The transport that a `Road.process` describes."""
    module, _, name = process[0].partition(":")
    make: Any = getattr(import_module(module), name)
    return cast(Transport, make(*process[1:]))


async def run(job: Job) -> None:
    """Do the job, then wait to be killed."""
    topic = make_topic(job.topic, job.partitions)
    subscription = Subscription(source=topic, group="g", start="earliest")
    transport = make_transport(job.process)
    await transport.open([topic], [subscription])
    _say("ready")
    if job.task == "publish":
        await _publish(job, topic, transport)
    else:
        await _receive(job, subscription, cast(Source, transport))
    await asyncio.Event().wait()


async def _publish(job: Job, topic: Topic[Any], transport: Transport) -> None:
    for number in range(job.count):
        message = Message(
            id=new_id(),
            type=topic.name,
            source="urn:postroad:worker",
            data=b'{"number": %d}' % number,
            time_us=now_us(),
        )
        await transport.publish([(topic, message)])
        _say(message.id)


async def _receive(job: Job, subscription: Subscription, source: Source) -> None:
    plan = Plan(lease=timedelta(seconds=job.lease), ordered=job.ordered)
    consumer = await source.subscribe(subscription, plan)
    held = 0
    # One that held more than it was asked to would be killed before it could say so.
    while job.task == "consume" or held < job.count:
        batch = await consumer.receive(job.count - held, BYTES, STEP)
        batch = await consumer.begin(batch)
        if job.task == "consume":
            await consumer.settle([Settlement(delivery) for delivery in batch])
        else:
            held += len(batch)
        for delivery in batch:
            _say(delivery.message.id)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do the job of the first argument."""
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
