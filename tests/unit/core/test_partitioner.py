"""The partitioner agrees with Kafka's."""

from __future__ import annotations

from collections import Counter

import pytest

from postroad.core.partitioner import murmur2, partition_of

# From Kafka's UtilsTest.testMurmur2 (Java, signed 32-bit).
KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("data", "signed"), KAFKA.items())
def test_murmur2_is_kafka_s(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


@pytest.mark.parametrize(("data", "signed"), KAFKA.items())
def test_the_partition_is_kafka_s(data: bytes, signed: int) -> None:
    # toPositive in Kafka: drop the sign bit.
    assert partition_of(data.decode(), 16) == (signed & 0x7FFFFFFF) % 16


def test_one_partition_takes_all() -> None:
    assert {partition_of(str(number), 1) for number in range(100)} == {0}


def test_keys_spread() -> None:
    counts = Counter(partition_of(f"customer-{number}", 16) for number in range(16_000))
    assert sorted(counts) == list(range(16))
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("key", ["", "ключ", "😀", "\ud800"])
def test_any_text_is_a_key(key: str) -> None:
    assert 0 <= partition_of(key, 7) < 7
