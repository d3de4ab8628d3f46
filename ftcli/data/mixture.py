"""How many rows each set contributes to a mix, which ones, and in which order. Pure arithmetic; no row is read.

The pool of a set is all of its rows, or `rows` or `share_of_set` of them, drawn by seed, then `repeat`ed. Sets without
`share_of_mix` contribute their whole pool. The others are sampled down, never up, so that each makes up its share of
the mix to within one row; a pool that is too small for its share is an error, not a silent repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from ftcli.core.errors import DataError, Problem
from ftcli.settings.groups import SetSettings

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the configuration requests from one set. See SetSettings for the meaning of each number."""

    name: str
    share_of_set: float | None = None
    rows: int | None = None
    repeat: float = 1.0
    share_of_mix: float | None = None

    @classmethod
    def of(cls, name: str, settings: SetSettings) -> Demand:
        """The request in the settings of a set."""
        names = ("share_of_set", "rows", "repeat", "share_of_mix")
        return cls(name=name, **{key: getattr(settings, key) for key in names})

    def pool(self, available: int) -> tuple[int, int]:
        """How many different rows are taken of `available`, and how many these are with repeats.

        Raises:
            DataError: the request exceeds the rows there are.
        """
        taken = available
        if self.rows is not None:
            taken = self.rows
        elif self.share_of_set is not None:
            taken = round(available * self.share_of_set)
        if taken > available:
            what = f"requests {taken} rows of {self.name}, which has {available} usable rows"
            fix = (
                f"request {available}, and repeat them with data.mix.{self.name}.repeat={taken / max(1, available):.3g}"
            )
            raise DataError(Problem(f"data.mix.{self.name}.rows", what, fix))
        return taken, round(taken * self.repeat)


def counts(demands: Sequence[Demand], available: Sequence[int]) -> list[int]:
    """Rows that each set contributes to the mix, counting repeats.

    Args:
        available: usable rows of each set.

    Raises:
        DataError: a set is too small for its request.
    """
    pools = [demand.pool(number)[1] for demand, number in zip(demands, available, strict=True)]
    shares = [demand.share_of_mix for demand in demands]
    requested = sum(share for share in shares if share is not None)
    if all(share is not None for share in shares):
        exact = [share / requested for share in shares if share is not None]  # they add up to 1 but for rounding
        total = min(int(pool / share + _ROUNDING) for pool, share in zip(pools, exact, strict=True))
        return _largest_remainder([total * share for share in exact], total)
    fixed = sum(pool for pool, share in zip(pools, shares, strict=True) if share is None)
    whole = fixed / (1 - requested)
    total = round(whole)
    wanted = [whole * share if share is not None else pool for pool, share in zip(pools, shares, strict=True)]
    rows = _largest_remainder(wanted, total)
    for demand, need, pool in zip(demands, rows, pools, strict=True):
        if need > pool:
            what = f"a share of {demand.share_of_mix:g} of the mix needs {need} rows, and {demand.name} has {pool}"
            times = need / max(1, pool) * demand.repeat
            fix = f"lower it, or repeat the set with data.mix.{demand.name}.repeat={times:.3g}"
            raise DataError(Problem(f"data.mix.{demand.name}.share_of_mix", what, fix))
    return rows


def _largest_remainder(wanted: Sequence[float], total: int) -> list[int]:
    """Whole numbers next to `wanted` that add up to `total`; each is off by less than one."""
    floors = [int(number + _ROUNDING) for number in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda i: floors[i] - wanted[i])
    for index in by_remainder[: total - sum(floors)]:
        floors[index] += 1
    return floors


def chosen(demand: Demand, available: int, count: int, seed: int) -> list[int]:
    """Which rows of a set make up its `count` rows of the mix: row numbers in the set's order, with repeats in place.

    Drawn by the seed and the set's name, so that adding a set to the mix leaves the rows of the others unchanged.
    """
    random = Random(f"{seed} {demand.name}")
    taken, with_repeats = demand.pool(available)
    rows = sorted(random.sample(range(available), taken)) if taken < available else list(range(available))
    whole, rest = divmod(with_repeats, taken) if taken else (0, 0)
    pool = sorted([*rows * whole, *random.sample(rows, rest)])
    return pool if count == len(pool) else sorted(random.sample(pool, count))


def order(sizes: Sequence[int], how: str) -> list[int]:
    """The set that each place of the mix goes to.

    Args:
        how: `interleave` spreads every set evenly, so that every prefix of the mix has the shares of the whole to
            within one row per set; `concatenate` puts one set after another.
    """
    if how == "concatenate":
        return [index for index, size in enumerate(sizes) for _ in range(size)]
    # Row j of a set may be placed once the set's share of the places so far exceeds j, and must be before it exceeds
    # j + 1. Giving each place to the allowed row with the earliest deadline meets every deadline (pfair scheduling,
    # Baruah et al. 1996, on one machine).
    total, places = sum(sizes), list[int]()
    opens = [(0, index) for index, size in enumerate(sizes) if size]
    due: list[tuple[int, int]] = []
    given = [0] * len(sizes)
    for place in range(total):
        while opens and opens[0][0] <= place:
            index = heappop(opens)[1]
            heappush(due, (-(-(given[index] + 1) * total // sizes[index]), index))
        index = heappop(due)[1]
        given[index] += 1
        if given[index] < sizes[index]:
            heappush(opens, (given[index] * total // sizes[index], index))
        places.append(index)
    return places
