"""Which operands of a plan lie elsewhere at each call, so that graphs work on copies of them.

Inputs and outputs are numbered together, inputs first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnaccel_backend_cuda.memory import ALIGNMENT


class Mobile:
    """Learns from the addresses of calls which operands move.

    Attributes:
        nbytes: memory for the copies.
    """

    def __init__(self, sizes: Sequence[int], most: int) -> None:
        """``sizes``: bytes of each operand; at most ``most`` bytes are copied."""
        self._sizes = sizes
        self._most = most
        self._copied = 0
        self._at: dict[int, int] = {}
        self._firm = tuple(range(len(sizes)))
        self.nbytes = 0

    def fixed(self, addresses: Sequence[int]) -> tuple[int, ...]:
        """The addresses that a graph depends on."""
        return tuple([addresses[k] for k in self._firm])

    def learn(self, before: Sequence[int], now: Sequence[int]) -> bool:
        """Count operands whose addresses differ among those that move, the smallest first, as far as copying them is cheap;
        whether there were any such. What is too large stays: its graphs are good for the same addresses only."""
        changed = sorted((k for k in self._firm if before[k] != now[k]), key=lambda k: self._sizes[k])
        found = []
        for k in changed:
            if self._copied + self._sizes[k] > self._most:
                break
            self._copied += self._sizes[k]
            found.append(k)
        if not found:
            return False
        moving = sorted((*self._at, *found))
        self._at, self.nbytes = {}, 0
        for k in moving:
            self._at[k] = self.nbytes
            self.nbytes += -(-self._sizes[k] // ALIGNMENT) * ALIGNMENT
        self._firm = tuple(k for k in self._firm if k not in self._at)
        return True

    def moved(self, inputs: Sequence[int], outputs: Sequence[int], base: int) -> tuple[list[int], list[int]]:
        """Addresses of inputs and outputs for a graph: those that move have their copies at ``base``."""
        n = len(inputs)
        found = [base + self._at[k] if k in self._at else a for k, a in enumerate((*inputs, *outputs))]
        return found[:n], found[n:]

    def copies(self, addresses: Sequence[int], first: int) -> Iterator[tuple[int, int, int]]:
        """Copies for operands ``first`` and on, which lie at ``addresses``: (place among the copies, index in ``addresses``,
        bytes). Neighbours in both places are one copy."""
        begin, last, nbytes = -1, -1, 0
        for k, at in self._at.items():
            i = k - first
            if not 0 <= i < len(addresses) or not self._sizes[k]:
                continue
            if begin >= 0:
                apart = at - self._at[first + begin]
                if (
                    apart == addresses[i] - addresses[begin]
                    and at - self._at[first + last] < self._sizes[first + last] + ALIGNMENT
                ):
                    last, nbytes = i, apart + self._sizes[k]
                    continue
                yield self._at[first + begin], begin, nbytes
            begin, last, nbytes = i, i, self._sizes[k]
        if begin >= 0:
            yield self._at[first + begin], begin, nbytes


__all__ = ["Mobile"]
