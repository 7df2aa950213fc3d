"""Publishing: messages to topics, also to the observers in this process, and withdrawing them."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from datetime import timedelta
from typing import TypeVar, Unpack

from postroad.core.contract import check_delay
from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.topic import NO_OPTIONS, Options, PublishOptions, Topic
from postroad.core.transport import Cancels
from postroad.delivery.execution import inside_transaction
from postroad.errors import NotSupportedError
from postroad.road.connection import Connection

T = TypeVar("T")

_ACCEPTED = Receipt()


class Publishing(Connection):
    """A road's publishing side."""

    async def publish(
        self, topic: Topic[T], payload: T, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Publish one message; returns when the road has accepted it, as durable as it declares
        (or at once, for a fire-and-forget topic). Many tasks that publish at once share a commit.

        Raises:
            PayloadError: the payload does not fit the topic; nothing was sent.
            PublishError: not accepted, or of unknown fate.
            NotSupportedError: inside a `tx`, where only `tx.publish` commits with the rest.
        """
        if inside_transaction():
            raise _bare_publish()
        publisher = self._publisher
        if publisher is None or topic not in self._prepared:
            publisher = await self._prepare_to_publish(topic)
        chosen = Options(**options) if options else NO_OPTIONS
        if self._observed:
            await self._observe(topic, payload, chosen)
            if not self._is_needed(topic.name):
                return _ACCEPTED
        if options:
            message = self._envelope_with(topic, payload, chosen)
        else:
            message = topic.envelope(payload, self.clock.now_us(), self.name)
        if topic.publish == "fire-and-forget":
            await publisher.post(topic, message)
            return _ACCEPTED
        return await publisher.publish(topic, message)

    async def publish_many(
        self, topic: Topic[T], payloads: Iterable[T], **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        """Publish in order and in large batches; returns when all are accepted.

        Raises:
            PayloadError: one payload does not fit; the chunks before it are accepted.
            PublishError: indices count from the first payload; the chunks before are accepted,
                what follows was not sent.
            NotSupportedError: inside a `tx`, as for `publish`.
        """
        if inside_transaction():
            raise _bare_publish()
        publisher = await self._prepare_to_publish(topic)
        if self._observed:
            return [await self.publish(topic, payload, **options) for payload in payloads]
        if options:
            chosen = Options(**options)
            entries = ((topic, self._envelope_with(topic, one, chosen)) for one in payloads)
        else:
            now_us, name, envelope = self.clock.now_us, self.name, topic.envelope
            entries = ((topic, envelope(one, now_us(), name)) for one in payloads)
        return await publisher.publish_many(entries)

    async def cancel(self, message_id: str) -> bool:
        """Withdraw a message that was published with a delay which is not over. False: there is
        none such any more.

        Raises:
            NotSupportedError: the road cannot withdraw.
        """
        places: tuple[object, ...] = (await self._ready(), self._store)
        able = [place for place in places if isinstance(place, Cancels)]
        if not able:
            raise NotSupportedError(f"{self.url} cannot withdraw a scheduled message")
        return any([await place.cancel(message_id) for place in able])

    def _envelope_with(self, topic: Topic[T], payload: T, options: Options) -> Message:
        now_us = self.clock.now_us()
        message = topic.envelope_with(payload, options, now_us, self.name)
        if message.deliver_at_us is not None:
            wait = timedelta(microseconds=message.deliver_at_us - now_us)
            store = None if self._store is None else self._store.capabilities
            check_delay(wait, self.capabilities, store)
        return message

    def _observe(self, topic: Topic[T], payload: T, options: Options) -> Awaitable[None]:
        now_us = self.clock.now_us()
        due = None if options is NO_OPTIONS else options.deliver_at_us(now_us)
        if due is not None and due > now_us:
            raise NotSupportedError(
                f"a delayed message on {topic.name!r}, which has observers: observers are called "
                "inside publish; subscribe with group=None instead"
            )

        def make_message() -> Message:
            return topic.envelope_with(payload, options, now_us, self.name)

        return self._observers.dispatch(topic.name, payload, make_message)


def _bare_publish() -> NotSupportedError:
    return NotSupportedError(
        "a bare publish inside a transaction would survive its rollback; "
        "use `await tx.publish(topic, payload)`"
    )
