"""The block pool: references, eviction order, what can be found."""

from __future__ import annotations

from pytest_llmperf.sim.kvcache import BlockPool


def _held(pool: BlockPool, *keys: str) -> list[int]:
    blocks = pool.allocate(len(keys))
    pool.publish(blocks, keys, 0)
    return blocks


def test_released_blocks_stay_findable_until_they_are_needed() -> None:
    pool = BlockPool(4)
    blocks = _held(pool, "a", "b")
    pool.release(blocks)
    assert pool.n_free == 4
    assert pool.lookup(["a", "b", "c"]) == blocks
    pool.allocate(2)
    assert pool.lookup(["a", "b"]) == blocks
    pool.allocate(1)
    assert pool.lookup(["a", "b"]) == blocks[:1]


def test_the_least_recently_used_sequence_goes_first_and_its_tail_before_its_head() -> None:
    pool = BlockPool(4)
    old, new = _held(pool, "a", "b"), _held(pool, "x", "y")
    pool.release(old)
    pool.release(new)
    assert pool.allocate(3) == [old[1], old[0], new[1]]
    assert pool.lookup(["x"]) == [new[0]]


def test_a_hit_revives_an_idle_block() -> None:
    pool = BlockPool(2)
    blocks = _held(pool, "a", "b")
    pool.release(blocks)
    pool.acquire(blocks[:1])
    assert pool.n_free == 1
    assert pool.allocate(1) == [blocks[1]]
    assert pool.lookup(["a"]) == [blocks[0]]


def test_a_shared_block_is_free_when_the_last_user_left() -> None:
    pool = BlockPool(2)
    blocks = _held(pool, "a")
    pool.acquire(blocks)
    pool.release(blocks)
    assert pool.n_free == 1
    assert not pool.is_idle(blocks[0])
    pool.release(blocks)
    assert pool.n_free == 2
    assert pool.is_idle(blocks[0])


def test_a_lookup_stops_at_the_first_gap() -> None:
    pool = BlockPool(3)
    first, _, third = _held(pool, "a", "b", "c")
    assert pool.lookup(["a", "?", "c"]) == [first]
    assert pool.lookup(["c"]) == [third]


def test_a_known_key_keeps_its_block() -> None:
    pool = BlockPool(2)
    first, second = _held(pool, "a"), pool.allocate(1)
    pool.publish(second, ["a"], 0)
    assert pool.lookup(["a"]) == first


def test_usage() -> None:
    pool = BlockPool(8)
    pool.allocate(2)
    assert pool.usage == 0.25
