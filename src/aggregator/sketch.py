"""A sketch of many times as the engine hands it over, and two of them as one. Pure.

How many calls fell into each bin of a logarithmic scale (measures.py). The engine merges them where it can; what
comes from two statements is merged here, by the same rule: a quantile is the first bin at which so large a part of all
calls is reached.
"""

import math
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

QUANTILES = (0.5, 0.95, 0.99)
_CELL = Struct("<hQ")  # a bin, and how many calls fell into it, as the engine writes its states


class Sketch(NamedTuple):
    """`bins` of the QUANTILES. `state` is the engine's, as hexadecimal text: empty where nothing is to be merged."""

    bins: Sequence[int]
    state: str = ""

    def merged(self, other: "Sketch") -> "Sketch":
        weights: dict[int, int] = {}
        for bin, weight in (*_cells(self.state), *_cells(other.state)):
            weights[bin] = weights.get(bin, 0) + weight
        return Sketch(_quantiles(weights), _state(weights))


def _cells(state: str) -> Iterator[tuple[int, int]]:
    body = bytes.fromhex(state)
    start = next((i + 1 for i, byte in enumerate(body) if byte < 0x80), 0)  # the number of cells, seven bits a byte
    if not start:
        raise ValueError("a sketch came without its state, so it cannot be merged")
    return _CELL.iter_unpack(body[start:])


def _state(weights: dict[int, int]) -> str:
    count, head = len(weights), bytearray()
    while count >= 0x80:
        head.append(count & 0x7F | 0x80)
        count >>= 7
    head.append(count)
    return (head + b"".join(_CELL.pack(*cell) for cell in weights.items())).hex()


def _quantiles(weights: dict[int, int]) -> list[int]:
    if not weights:
        return [0] * len(QUANTILES)
    total, found = sum(weights.values()), []
    for level in QUANTILES:
        wanted, reached = math.ceil(total * level), 0
        for bin in sorted(weights):
            reached += weights[bin]
            if reached >= wanted:
                found.append(bin)
                break
    return found
