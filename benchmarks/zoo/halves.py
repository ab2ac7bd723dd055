"""Which half an encoder or a data set belongs to: everything is chosen on one half and reported on the other.

The rule was fixed before any synthetic score was computed on any of them. Within each task the groups of siblings
come in the order of the SHA-256 of their name; each goes to the half that has fewer members of that task, and on a tie
to the half with fewer members so far over all tasks, then to 'development'. A twin is in the half of its network.
Trivial encoders are in both. Data sets alternate in the order of the SHA-256 of their name, 'development' first.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

DEVELOPMENT, HELD_OUT = "development", "held-out"


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def network_halves(members: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Half by name, for (name, task, siblings) in any order; no siblings means the name itself."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, task, siblings in members:
        groups[task][siblings or name].append(name)
    total: Counter[str] = Counter()
    found = {}
    for task in sorted(groups, key=_order):
        here: Counter[str] = Counter()
        for group in sorted(groups[task], key=_order):
            half = min((DEVELOPMENT, HELD_OUT), key=lambda one: (here[one], total[one], one != DEVELOPMENT))
            for name in groups[task][group]:
                found[name] = half
                here[half] += 1
                total[half] += 1
    return found


def data_halves(names: Iterable[str]) -> dict[str, str]:
    """Half by name."""
    return {name: (DEVELOPMENT, HELD_OUT)[place % 2] for place, name in enumerate(sorted(names, key=_order))}
