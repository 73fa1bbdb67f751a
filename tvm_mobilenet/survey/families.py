"""The networks of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mobilenet.models.options import DTYPES, ModelOptions
from tvm_mobilenet.models.papers import accuracies


def networks_of(
    families: Sequence[str], alphas: Sequence[float], resolutions: Sequence[int], dtypes: Sequence[str] = DTYPES[:1]
) -> list:
    """The networks to compare: from each family those with a published accuracy, or those of the given alphas and
    resolutions; each in every dtype.

    Raises
    ------
    TvmMobilenetError
        An unknown family (the nearest is suggested), alpha not above 0, a resolution that is no multiple of 32.
    """
    from tvm_mobilenet.models import registry

    for alpha in alphas:
        registry.check_shape(alpha, 224, 1000)
    for resolution in resolutions:
        registry.check_shape(1.0, resolution, 1000)
    found = []
    for family in families:
        entry = registry.find(family)
        published = [(a, r) for name, a, r in accuracies() if name == entry.name] or [(1.0, 224)]
        pairs = published
        if alphas or resolutions:
            pairs = [
                (a, r)
                for a in alphas or dict.fromkeys(a for a, _ in published)
                for r in resolutions or dict.fromkeys(r for _, r in published)
            ]
        found += [
            ModelOptions(model=entry.aliases[0], alpha=a, resolution=r, dtype=d) for d in dtypes for a, r in pairs
        ]
    return list(dict.fromkeys(found))
