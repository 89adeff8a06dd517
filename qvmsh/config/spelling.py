"""Find the known word that a misspelled one resembles.

near("qcow", ("raw", "qcow2"))     # "qcow2"
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def near(word: str, known: Iterable[str], most: int = 2) -> str | None:
    """The known word with the smallest distance from `word`, at most `most`; None if there is none."""
    best, least, letters = None, most + 1, frozenset(word)
    for candidate in known:
        if abs(len(candidate) - len(word)) < least and len(letters ^ frozenset(candidate)) < 2 * least:
            count = distance(word, candidate, least)
            if count < least and count < len(candidate):
                best, least = candidate, count
    return best


def distance(left: str, right: str, enough: int = 1000) -> int:
    """The number of letters to insert, delete, replace or swap (optimal string alignment).

    A distance of `enough` or more need not be exact.
    """
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            cost = before[j - 1] + (a != b)
            if cost > before[j]:
                cost = before[j] + 1
            if cost > row[j - 1]:
                cost = row[j - 1] + 1
            if a != b and i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) >= enough and min(before) >= enough:
            return enough
    return row[-1]
