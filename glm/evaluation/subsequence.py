"""The length of the longest common subsequence of two sequences, in linear memory (ROUGE-L needs no more of it)."""

from collections.abc import Hashable, Sequence

BLOCK = 4096  # items of a sequence that one whole number stands for


def common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence: one bit an item of `first`, all bits of a block at once.

    A row of the usual table differs from the one above by 0 or 1 a column; these differences are the bits of a number
    that one addition carries to the next row (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    carries = [0] * len(second)
    return sum(_block(first[start : start + BLOCK], second, carries) for start in range(0, len(first), BLOCK))


def _block(items: Sequence[Hashable], second: Sequence[Hashable], carries: list[int]) -> int:
    """What these items of the first sequence add to the length; `carries` go from block to block, in place."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(items):
        places[item] = places.get(item, 0) | 1 << place
    ones = unmatched = (1 << len(items)) - 1
    for row, item in enumerate(second):
        here = unmatched & places.get(item, 0)
        total = unmatched + here + carries[row]
        carries[row] = total >> len(items)
        unmatched = total & ones | unmatched - here
    return len(items) - unmatched.bit_count()
