"""Counts in a hash of Redis that outlive whoever counts."""

from __future__ import annotations

import redis


def count_up(client: redis.Redis, key: str, field: str, kept_s: int) -> int:
    """Add one to a field of the hash ``key``, which lives for ``kept_s`` from now on; return the sum.

    What no Sortline wrote there (a key of another type, a field that is no number) is removed, and counted from 1.
    """
    try:
        return _count_up(client, key, field, kept_s)
    except redis.ResponseError as error:
        if not _is_of_the_value(error):
            raise
        client.delete(key)
        return _count_up(client, key, field, kept_s)


def _count_up(client: redis.Redis, key: str, field: str, kept_s: int) -> int:
    pipeline = client.pipeline()
    pipeline.hincrby(key, field, 1)
    pipeline.expire(key, kept_s)
    return int(pipeline.execute()[0])


def _is_of_the_value(error: redis.ResponseError) -> bool:
    return any(sign in str(error) for sign in ("WRONGTYPE", "hash value is not an integer", "would overflow"))
