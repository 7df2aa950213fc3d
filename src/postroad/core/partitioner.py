"""Which partition a key belongs to: the same one in every process, on every road of ours."""

from __future__ import annotations

from zlib import crc32


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key among so many (≥ 1). Pure, and stable over processes and versions:
    CRC-32 of the key's UTF-8 bytes, modulo `partitions`."""
    if partitions == 1:
        return 0
    return crc32(key.encode("utf-8", "surrogatepass")) % partitions
