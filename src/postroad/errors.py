"""Every error that Postroad raises on purpose, drawn as a tree.

::

    PostroadError
    ├── DeclarationError               what was declared cannot work; nothing was sent
    │   ├── InvalidURLError            the URL is not one that a road can be opened from
    │   ├── UnknownTransportError      no road answers to the URL's scheme
    │   ├── MissingExtraError          the road exists, its client library is not installed
    │   ├── HandlerTypeError           the handler cannot take what its topic carries
    │   ├── GuaranteeError             the road cannot keep what a subscription asks for
    │   └── TopicMismatchError         the road holds this topic with other settings
    ├── PayloadError                   one message's payload is the trouble
    │   ├── EncodeError                the object is not of the topic's type
    │   ├── DecodeError                the bytes are not of the topic's encoding
    │   ├── WrongTypeError             decoded, but not of the topic's type
    │   ├── UnknownFieldError          carries fields that the topic's type lacks, and it minds
    │   └── PayloadTooLargeError       larger than the topic or the road takes
    ├── TransportError                 the road failed while in use
    │   ├── PublishError               some of a batch failed, or its fate is not known
    │   ├── TransportUnavailableError  not reachable now; worth trying again
    │   ├── BacklogFullError           a bounded queue is full and its policy is to refuse
    │   ├── GroupActiveError           asked for a group at rest, and it has consumers
    │   ├── LeaseLostError             held for too long; another consumer has it now
    │   ├── NotFoundError              no such topic, group, message or dead letter
    │   ├── NotSupportedError          this road cannot do what was asked at run time
    │   └── ClosedError                used before it was opened or after it was closed
    ├── IdempotencyError               a repeated or late operation was refused
    │   ├── KeyReusedError             an idempotency key came again with another payload
    │   ├── KeyInProgressError         what the key stands for is being done right now
    │   ├── KeyLostError               a key was held past its lease, or its result was not kept
    │   ├── DuplicateError             this message's effect is in the database already
    │   └── TokenRefusedError          a token is unknown, expired, or was redeemed before
    └── StorageError                   the database under a road or store
        ├── StorageBusyError           locked by another process for longer than we wait
        ├── StorageUnavailableError    its server cannot be reached now, or was lost
        ├── StorageRefusedError        it refused a value or a statement; nothing was committed
        ├── StorageFullError           no room left on the disk
        ├── StorageCorruptError        not a database, or a damaged one
        ├── StorageVersionError        written by a newer Postroad, or not by Postroad
        ├── TransactionRequiredError   a connection to join has no transaction open
        └── StoragePermissionError     not readable or not writable by this process

A message of these says what was asked, what is possible, and the remedy. None carries a payload
or a password: what a URL or a payload holds never reaches a log through an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal


class PostroadError(Exception):
    """The root: catching it catches everything that Postroad raises on purpose.

    Attributes:
        transient: whether the same call may succeed later with nothing changed but time.
    """

    transient = False


class DeclarationError(PostroadError):
    """A topic, subscription or road was declared in a way that cannot work. Nothing was sent."""


class InvalidURLError(DeclarationError):
    """The URL cannot be read. The message never repeats its password."""


class UnknownTransportError(DeclarationError):
    """No road answers to the URL's scheme; the message lists those that exist."""


class MissingExtraError(DeclarationError):
    """A client library is missing; the message holds the pip command that brings it."""


class HandlerTypeError(DeclarationError):
    """A handler's parameters do not fit the topic that it subscribes to."""


class TopicMismatchError(DeclarationError):
    """The road already holds the topic with settings that cannot be changed in place."""


class GuaranteeError(DeclarationError):
    """The road cannot keep what a subscription asks for.

    Attributes:
        gaps: every unmet wish, one sentence each, all at once.
        roads: the schemes that could keep all of them; empty if none is known.
    """

    def __init__(self, subject: str, gaps: Sequence[str], roads: Sequence[str] = ()) -> None:
        self.subject = subject
        self.gaps = tuple(gaps)
        self.roads = tuple(roads)
        lines = [f"{subject} cannot be kept:", *(f"  - {gap}" for gap in self.gaps)]
        if self.roads:
            lines.append("Roads that could: " + ", ".join(self.roads))
        else:
            lines.append("No road of this version could keep all of it as asked.")
        super().__init__("\n".join(lines))


class PayloadError(PostroadError):
    """One message's payload is the trouble; the road and the other messages are well.

    Attributes:
        reason: a short, stable word for dead letters and metrics.
    """

    reason = "payload"


class EncodeError(PayloadError):
    """The object given to publish is not of the topic's type."""

    reason = "unencodable"


class DecodeError(PayloadError):
    """The bytes are not of the topic's encoding."""

    reason = "undecodable"


class WrongTypeError(PayloadError):
    """The bytes decode, but not to the topic's type."""

    reason = "wrong-type"


class UnknownFieldError(PayloadError):
    """The payload has fields that the topic's type lacks, and the topic rejects such."""

    reason = "unknown-field"


class PayloadTooLargeError(PayloadError):
    """The payload is larger than the topic's or the road's limit, both in bytes."""

    reason = "oversized"


class TransportError(PostroadError):
    """The road failed while in use."""


class PublishError(TransportError):
    """Some messages of a batch were not accepted, or nobody can say whether they were.

    Attributes:
        failed: index in the batch → why it was certainly not accepted.
        unknown: index in the batch → why it may or may not have been accepted; publishing it
            again may repeat it, not publishing it again may lose it.
    """

    def __init__(
        self,
        failed: Mapping[int, Exception] | None = None,
        unknown: Mapping[int, Exception] | None = None,
    ) -> None:
        self.failed = dict(failed or {})
        self.unknown = dict(unknown or {})
        parts = []
        if self.failed:
            parts.append(f"{len(self.failed)} not accepted ({_first(self.failed)})")
        if self.unknown:
            parts.append(f"{len(self.unknown)} of unknown fate ({_first(self.unknown)})")
        super().__init__("; ".join(parts) or "nothing was accepted")


class TransportUnavailableError(TransportError):
    """The road cannot be reached now. Worth trying again."""

    transient = True


class BacklogFullError(TransportError):
    """A bounded queue is full and its declared policy is to refuse."""

    transient = True


class GroupActiveError(TransportError):
    """The operation needs the group at rest, and it has live consumers."""


class LeaseLostError(TransportError):
    """A delivery was held past its lease: its effects were not committed by us."""


class NotFoundError(TransportError):
    """There is no such topic, group, message or dead letter on this road."""


class NotSupportedError(TransportError):
    """This road cannot do what was asked; the message names what it can."""


class ClosedError(TransportError):
    """Used before it was opened or after it was closed."""


class IdempotencyError(PostroadError):
    """A repeated or late operation was refused; nothing was done for it."""


class KeyReusedError(IdempotencyError):
    """An idempotency key was used before with another payload. A new operation needs a new key."""


class KeyInProgressError(IdempotencyError):
    """What the key stands for is being done right now. Worth trying again.

    Attributes:
        retry_after: seconds until the holder's lease is over, if it is not renewed.
    """

    transient = True

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class KeyLostError(IdempotencyError):
    """The key's record is no longer ours: its lease was over and somebody else claimed it, or the
    transaction that was to keep the result was not committed."""


class DuplicateError(IdempotencyError):
    """The inbox knows the message: its effect is in the database already, and nothing is done for
    this delivery of it. A handler lets it pass; swallowed, it still undoes the transaction."""


class TokenRefusedError(IdempotencyError):
    """The token was not redeemed.

    Attributes:
        reason: `unknown`, `expired` or `redeemed`.
    """

    def __init__(self, message: str, reason: Literal["unknown", "expired", "redeemed"]) -> None:
        self.reason = reason
        super().__init__(message)


class StorageError(PostroadError):
    """The database under a road or a store failed."""


class StorageBusyError(StorageError):
    """Locked by another process for longer than the busy timeout. Worth trying again."""

    transient = True


class StorageUnavailableError(StorageError):
    """The database's server cannot be reached, or the connection was lost before anything was
    committed. Worth trying again."""

    transient = True


class StorageRefusedError(StorageError):
    """The database refused what was asked: a value that it cannot hold, or a statement. Nothing
    was committed."""


class StorageFullError(StorageError):
    """No room left on the disk. What was accepted before is safe; worth trying again."""

    transient = True


class StorageCorruptError(StorageError):
    """The file is not a database, or it is damaged. Nothing was written to it."""


class StorageVersionError(StorageError):
    """The schema was written by a newer Postroad, or is in use by an older one that would not
    understand a newer schema, or the file belongs to another program."""


class TransactionRequiredError(StorageError):
    """A connection was given to join its transaction, and it commits each statement by itself.
    Nothing was written."""


class StoragePermissionError(StorageError):
    """The file or its folder cannot be read or written by this process."""


def _first(errors: Mapping[int, Exception]) -> str:
    return str(next(iter(errors.values()))).splitlines()[0]
