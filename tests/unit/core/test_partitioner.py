"""Keys have their partitions for ever."""

from __future__ import annotations

from collections import Counter

import pytest

from postroad.core.partitioner import partition_of


def test_keys_stay_where_they_are() -> None:
    """The figures are of CRC-32 (ISO 3309): a change would move every key of every log."""
    assert [partition_of(key, 16) for key in ("ada", "grace", "N14228", "")] == [8, 3, 14, 0]
    assert partition_of("123456789", 1 << 32) == 0xCBF43926


def test_one_partition_takes_all() -> None:
    assert {partition_of(str(number), 1) for number in range(100)} == {0}


def test_keys_spread() -> None:
    counts = Counter(partition_of(f"customer-{number}", 16) for number in range(16_000))
    assert sorted(counts) == list(range(16))
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("key", ["", "ключ", "😀", "\ud800"])
def test_any_text_is_a_key(key: str) -> None:
    assert 0 <= partition_of(key, 7) < 7
