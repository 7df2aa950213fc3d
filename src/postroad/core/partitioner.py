"""Which partition a key belongs to: the same one in every process and on every road."""

from __future__ import annotations

from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit MurmurHash2 of bytes, unsigned, as in Kafka's `Utils.murmur2` (Java)."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        h = h * _M & _MASK ^ (k ^ k >> 24) * _M & _MASK
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=65536)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key among so many (≥ 1). Pure and stable over processes and versions.

    It is Kafka's default partitioner over the key's UTF-8 bytes (`toPositive(murmur2(key)) % n`),
    so a topic that moves to Kafka keeps every key in its partition.
    """
    if partitions == 1:
        return 0
    return (murmur2(key.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF) % partitions
