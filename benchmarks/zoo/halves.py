"""Which half an encoder or a data set belongs to: everything is chosen on one half and reported on the other.

The rule was fixed before any synthetic score was computed on any of them. Within each task the groups of siblings
come in the order of the SHA-256 of their name; each goes to the half that has fewer members of that task, and on a tie
to the half with fewer members so far over all tasks, then to 'development'. A twin is in the half of its network.
Trivial encoders are in both. Data sets alternate in the order of the SHA-256 of their name, 'development' first. Whatever
is added later forms a later round, which is placed by the same rule after the rounds before it and moves none of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

DEVELOPMENT, HELD_OUT = "development", "held-out"


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def network_halves(members: Iterable[tuple[str, str, str, int]]) -> dict[str, str]:
    """Half by name, for (name, task, siblings, round) in any order; no siblings means the name itself."""
    rounds: dict[int, dict[str, dict[str, list[str]]]] = {}
    for name, task, siblings, number in members:
        groups = rounds.setdefault(number, defaultdict(lambda: defaultdict(list)))
        groups[task][siblings or name].append(name)
    total: Counter[str] = Counter()
    here: dict[str, Counter[str]] = defaultdict(Counter)
    found = {}
    for _, groups in sorted(rounds.items()):
        for task in sorted(groups, key=_order):
            for group in sorted(groups[task], key=_order):
                held = here[task]
                half = min(
                    (DEVELOPMENT, HELD_OUT), key=lambda one: (held[one], total[one], one != DEVELOPMENT)
                )
                for name in groups[task][group]:
                    found[name] = half
                    held[half] += 1
                    total[half] += 1
    return found


def data_halves(rounds: Iterable[Iterable[str]]) -> dict[str, str]:
    """Half by name, for the names of each round."""
    names = [name for one in rounds for name in sorted(one, key=_order)]
    return {name: (DEVELOPMENT, HELD_OUT)[place % 2] for place, name in enumerate(names)}
