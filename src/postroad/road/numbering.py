"""Publishing with sequence numbers that the road gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, Unpack

from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.topic import Options, PublishOptions, Topic
from postroad.core.transport import Numbers
from postroad.delivery.execution import inside_transaction
from postroad.errors import EncodeError, NotSupportedError
from postroad.road.publishing import Publishing

T = TypeVar("T")


class Numbering(Publishing):
    """A road's publishing side for producers that do not count by themselves."""

    async def publish_numbered(
        self,
        topic: Topic[T],
        payloads: Iterable[T],
        *,
        epoch: str = "",
        **options: Unpack[PublishOptions],
    ) -> list[Receipt]:
        """Publish in order; each message gets the next sequence number of its key, beginning with
        1, in the commit that accepts it: no number is given twice, and none is missing for a
        publish that failed. All are accepted or none is. Where several processes publish one key,
        their numbers follow each other as their messages do.

        A producer that has numbers of its own, such as an aggregate's version, publishes as
        always, with `headers=numbered(version)`.

        Args:
            epoch: the numbering; another one begins with 1 again.

        Raises:
            EncodeError: a payload has no key, or its key has used up the numbers of the epoch.
            PayloadError: a payload does not fit the topic.
            PublishError: not accepted, or of unknown fate.
            NotSupportedError: the road cannot count, or this is inside a `tx`.
        """
        if inside_transaction():
            raise NotSupportedError(
                "publish_numbered inside a transaction would survive its rollback; number it "
                "yourself: await tx.publish(topic, message) with headers=numbered(…)"
            )
        await self._prepare_to_publish(topic)
        road = self._transport
        if not isinstance(road, Numbers):
            raise NotSupportedError(
                f"{self.url} cannot count; give the numbers yourself: headers=numbered(…), or "
                "publish on an SQL road"
            )
        chosen = Options(**options)
        messages = [(topic, self._with_key(topic, one, chosen)) for one in payloads]
        receipts = await road.publish_numbered(messages, epoch)
        self.hooks.published(topic.name, len(messages))
        return list(receipts)

    def _with_key(self, topic: Topic[T], payload: T, options: Options) -> Message:
        message = self._envelope_with(topic, payload, options)
        if message.key is None:
            raise EncodeError(
                f"a sequence number is of a key, and a payload on {topic.name!r} has none; "
                "declare Topic(key=…) or pass key="
            )
        return message
