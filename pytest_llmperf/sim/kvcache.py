"""The paged KV cache: blocks with reference counts, a hash table of full blocks, eviction of the least recently used.

As in vLLM, a block that nobody uses keeps its content until it is handed out again; a lookup that hits it revives it.
Keys are chain keys: block i's key stands for all tokens up to the end of block i.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class BlockPool:
    """All KV blocks of one engine."""

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self._n_fresh = n_blocks
        """Never used: handed out first, from the highest number down, as they head the LRU queue."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Used before, referenced by nobody; the least recently used first."""
        self._references: dict[int, int] = {}
        self._block_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}

    @property
    def n_free(self) -> int:
        """Blocks that can be handed out, those with cached content included."""
        return self._n_fresh + len(self._idle)

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0 to 1."""
        return 1.0 - self.n_free / self.n_blocks

    def is_idle(self, block: int) -> bool:
        """Whether nobody references the block."""
        return block in self._idle

    def allocate(self, count: int) -> list[int]:
        """``count`` blocks, each with one reference; the caller has checked ``n_free``."""
        blocks = []
        for _ in range(count):
            if self._n_fresh:
                self._n_fresh -= 1
                block = self._n_fresh
            else:
                block, _none = self._idle.popitem(last=False)
                key = self._key_of.pop(block, None)
                if key is not None:
                    del self._block_of[key]
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def lookup(self, keys: Sequence[Hashable]) -> list[int]:
        """The cached blocks of the longest known prefix of ``keys``."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def acquire(self, blocks: Sequence[int]) -> None:
        """One more reference to each block; idle ones leave the eviction queue."""
        for block in blocks:
            if block in self._idle:
                del self._idle[block]
                self._references[block] = 1
            else:
                self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less; the tail of a sequence is evicted before its head, which others more likely share."""
        for block in reversed(blocks):
            left = self._references[block] - 1
            if left:
                self._references[block] = left
            else:
                del self._references[block]
                self._idle[block] = None

    def publish(self, blocks: Sequence[int], keys: Sequence[Hashable], start: int) -> None:
        """Make full blocks ``start`` to ``len(keys)`` findable; a key that is known already keeps its first block."""
        for index in range(start, min(len(keys), len(blocks))):
            key, block = keys[index], blocks[index]
            if key not in self._block_of and block not in self._key_of:
                self._block_of[key] = block
                self._key_of[block] = key
