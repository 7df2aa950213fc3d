"""The JSON that scripts rely on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from postroad.cli import shapes
from postroad.core.contract import Contract, Term
from postroad.core.delivery import Delivery, Failure
from postroad.core.message import Message
from postroad.core.reports import Account, DeadLetter, Lag, PartitionLag
from postroad.delivery.audit import Audit, Entry, judge


def _message(data: bytes = b'{"a":1}') -> Message:
    return Message(id="m1", type="orders", source="shop", data=data, time_us=1_000_000, key="k")


def test_unknown_lag_is_null() -> None:
    known = PartitionLag(0, 3, timedelta(seconds=1.5))
    unknown = PartitionLag(1, None, None)
    assert shapes.lag_shape(Lag("orders", "pay", [known])) == {
        "topic": "orders",
        "group": "pay",
        "messages": 3,
        "seconds": 1.5,
        "partitions": [{"partition": 0, "messages": 3, "seconds": 1.5}],
    }
    shape = shapes.lag_shape(Lag("orders", "pay", [known, unknown]))
    assert shape["messages"] is None
    assert shape["seconds"] is None


def test_an_audit_has_every_figure_or_null() -> None:
    account = Account(
        topic="orders",
        group="pay",
        accepted=5,
        backlog=1,
        leased=1,
        waiting=0,
        scheduled=0,
        outcomes={"handled": 3},
        trimmed=0,
        duplicates=2,
        since_us=0,
    )
    blind = Entry("orders", "old", None, "unknown", "this road counts nothing")
    shape = shapes.audit_shape(Audit((judge(account, exact=True), blind)))
    assert shape["verdict"] == "unknown"
    first, second = shape["groups"]
    assert first["verdict"] == "balanced"
    assert first["account"]["accepted"] == 5
    assert first["account"]["outcomes"] == {"handled": 3}
    assert first["account"]["since"] == "1970-01-01T00:00:00Z"
    assert second["account"] is None
    assert second["reason"] == "this road counts nothing"


def test_a_payload_is_shown_only_on_request() -> None:
    delivery = Delivery(message=_message(), topic="orders", partition=2, offset=7)
    shape: dict[str, Any] = shapes.delivery_shape(delivery, payload=False)
    assert shape["position"] == "2:7"
    assert shape["size"] == 7
    assert not {"data", "data_base64"} & shape.keys()
    assert shapes.delivery_shape(delivery, payload=True)["data"] == {"a": 1}


def test_a_payload_that_is_not_json_is_base64() -> None:
    assert shapes.payload_shape(_message(b"\xff")) == {"data_base64": "/w=="}


def test_a_dead_letter_has_its_whole_history() -> None:
    failures = [
        Failure(reason="exception", detail="card", exception="ValueError", traceback="T", at_us=1),
        Failure(reason="timeout", detail="30 s", at_us=2),
    ]
    dead = DeadLetter(
        id="9",
        message=_message(),
        topic="orders",
        group="pay",
        position="2:7",
        failures=failures,
        died_us=3_000_000,
    )
    shape = shapes.dead_letter_shape(dead)
    assert shape["attempts"] == 2
    assert shape["failures"][0]["traceback"] == "T"
    assert shape["died"] == "1970-01-01T00:00:03Z"
    assert "data" not in shape["message"]
    msgspec.json.encode(shape)


def test_a_contract_with_a_gap_is_not_kept() -> None:
    terms = (Term("order", "key", "nobody", "no order here"),)
    shape = shapes.contract_shape(Contract("orders → pay", terms))
    assert shape["kept"] is False
    assert shape["terms"][0]["keeper"] == "nobody"
