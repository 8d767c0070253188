"""Numbers that an index expression is certainly a multiple of: what wide accesses need to know."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nnaccel_core.ir.dims import Dim
from nnaccel_core.loopir.ranges import args, split


def divisor(dim: Dim, facts: Mapping[str, int]) -> int:
    """A number that divides ``dim`` whatever its symbols are; 0 when ``dim`` is 0, which every number divides.

    Args:
        facts: a divisor of each symbol of which one is known.
    """
    if isinstance(dim, int):
        return abs(dim)
    if dim.op == "sym":
        return facts.get(str(dim.args[0]), 1)
    if dim.op == "sum":
        const, terms = split(dim)
        found = abs(const)
        for term, coefficient in terms:
            found = math.gcd(found, coefficient * divisor(term, facts))
        return found
    parts = [divisor(a, facts) for a in args(dim)]
    if dim.op == "mul":
        return math.prod(parts)
    if dim.op == "floordiv":
        quotient, rest = divmod(parts[0], parts[1]) if isinstance(args(dim)[1], int) else (1, 1)
        return quotient if rest == 0 else 1
    return math.gcd(*parts)  # the smaller, the larger, or a remainder
