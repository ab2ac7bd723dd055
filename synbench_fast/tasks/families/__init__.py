"""Families of tasks: K classes of synthetic samples that no linear map of the pixels separates.

texture    equal means, different spectra, orientations and colour couplings; the optimum is known exactly
shift      a picture with a 1/f spectrum anywhere on the torus, in 1/f noise; the optimum by simulation
shapes     the outline and filling of an object on clutter, at any place, size, angle and in any colours
instances  one picture of overlapping leaves, seen from elsewhere, in other light, with its colours turned
relations  how four parts lie to one another
count      how many things there are
symmetry   under which mirror or rotation the picture is the same
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synbench_fast.tasks.families import base
from synbench_fast.tasks.families.arrangements import Count, Relations, Shapes, Symmetry
from synbench_fast.tasks.families.base import Family
from synbench_fast.tasks.families.instances import Instances
from synbench_fast.tasks.families.optimum import Optimum
from synbench_fast.tasks.families.shift import Shift
from synbench_fast.tasks.families.texture import Texture

__all__ = [
    "FAMILIES",
    "Count",
    "Family",
    "Instances",
    "Optimum",
    "Relations",
    "Shapes",
    "Shift",
    "Symmetry",
    "Texture",
    "family",
]

FAMILIES: dict[str, type[Family]] = {
    one.name: one for one in (Texture, Shift, Shapes, Instances, Relations, Count, Symmetry)
}


def family(parameters: Mapping[str, Any]) -> Family:
    """The family of a TOML table or JSON object such as {"family": "texture", "classes": 20, "level": 0.5}.

    Raises SynbenchError for an unknown name or key, or a value outside the family's range.
    """
    return base.parse(FAMILIES, parameters)
