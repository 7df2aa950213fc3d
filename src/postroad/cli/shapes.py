"""What `--json` prints of each type: the shapes that scripts rely on."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from postroad.cli.output import instant, seconds
from postroad.core.clock import from_us
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Failure
from postroad.core.message import Message
from postroad.core.reports import DeadLetter, Lag
from postroad.delivery.audit import Audit, Entry


def lag_shape(lag: Lag) -> dict[str, Any]:
    """One group's lag; unknown is null."""
    return {
        "topic": lag.topic,
        "group": lag.group,
        "messages": lag.messages,
        "seconds": seconds(lag.age),
        "partitions": [
            {"partition": part.partition, "messages": part.messages, "seconds": seconds(part.age)}
            for part in lag.partitions
        ],
    }


def audit_shape(audit: Audit) -> dict[str, Any]:
    """The verdict and every entry."""
    return {"verdict": audit.verdict, "groups": [entry_shape(entry) for entry in audit.entries]}


def entry_shape(entry: Entry) -> dict[str, Any]:
    """One group's account; null where the road does not count."""
    shape: dict[str, Any] = {
        "topic": entry.topic,
        "group": entry.group,
        "verdict": entry.verdict,
        "reason": entry.reason,
        "account": None,
    }
    account = entry.account
    if account is not None:
        figures = ("accepted", "backlog", "leased", "waiting", "scheduled", "trimmed", "duplicates")
        shape["account"] = {name: getattr(account, name) for name in figures}
        shape["account"]["outcomes"] = dict(account.outcomes)
        shape["account"]["since"] = instant(from_us(account.since_us))
    return shape


def message_shape(message: Message, *, payload: bool) -> dict[str, Any]:
    """The envelope; the payload only where it was asked for."""
    shape: dict[str, Any] = {
        "id": message.id,
        "type": message.type,
        "source": message.source,
        "time": instant(message.time),
        "key": message.key,
        "size": len(message.data),
        "content_type": message.content_type,
        "subject": message.subject,
        "headers": dict(message.headers),
        "priority": message.priority,
        "correlation_id": message.correlation_id,
        "causation_id": message.causation_id,
    }
    if payload:
        shape |= payload_shape(message)
    return shape


def payload_shape(message: Message) -> dict[str, Any]:
    """The payload as JSON where it is JSON, else as base64, as in CloudEvents' JSON format."""
    try:
        return {"data": msgspec.json.decode(message.data)}
    except (msgspec.DecodeError, RecursionError):
        return {"data_base64": base64.b64encode(message.data).decode()}


def delivery_shape(delivery: Delivery, *, payload: bool) -> dict[str, Any]:
    """A delivery as `tail` prints it."""
    position = delivery.position
    place = {"topic": delivery.topic, "position": None if position is None else str(position)}
    return place | message_shape(delivery.message, payload=payload)


def failure_shape(failure: Failure) -> dict[str, Any]:
    """One attempt's end."""
    return {
        "reason": failure.reason,
        "detail": failure.detail,
        "exception": failure.exception,
        "traceback": failure.traceback,
        "time": instant(failure.at),
    }


def dead_letter_shape(dead: DeadLetter, *, payload: bool = False) -> dict[str, Any]:
    """A dead letter with its whole history."""
    return {
        "id": dead.id,
        "topic": dead.topic,
        "group": dead.group,
        "position": dead.position,
        "died": instant(from_us(dead.died_us)),
        "attempts": len(dead.failures),
        "failures": [failure_shape(failure) for failure in dead.failures],
        "message": message_shape(dead.message, payload=payload),
    }


def contract_shape(contract: Contract) -> dict[str, Any]:
    """A contract, line by line."""
    return {
        "subject": contract.subject,
        "kept": not contract.gaps,
        "terms": [
            {
                "subject": term.subject,
                "asked": term.asked,
                "keeper": term.keeper,
                "detail": term.detail,
            }
            for term in contract.terms
        ],
    }
