"""Which linear layers are the routers of a mixture of experts, by where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ftcli.models.layout import Module

_OF_ONE_EXPERT = re.compile(r"^(.+)\.experts?\.(\d+)\.")
_ROUTERS = frozenset({"router", "router_mlp"})
"""Parts of a name that only a router has, also where no stacked experts stand beside it (DBRX, Zaya)."""
_HEADS = ("score", "classifier")
"""Names of a classifier's head, which PEFT's all-linear leaves out."""


def is_adapted(module: Module) -> bool:
    """Whether PEFT's own all-linear takes the module."""
    return module.kind == "linear" and not module.head and module.leaf not in _HEADS


def routers_of(modules: Sequence[Module]) -> Iterator[Module]:
    """Routers that are linear layers: by name, or beside the experts of a layer, with an output for each of them.

    What a router learns decides which experts train, so it stays frozen unless it is named.
    """
    sizes: dict[str, int] = {}
    for module in modules:
        single = _OF_ONE_EXPERT.match(module.name)
        if module.kind == "experts":
            sizes[module.name.rpartition(".")[0].rpartition(".")[0]] = module.num_stacked
        elif single:
            sizes[single[1]] = max(sizes.get(single[1], 0), int(single[2]) + 1)
    for module in modules:
        if module.kind == "linear" and not module.head and _ROUTERS & set(module.name.split(".")):
            yield module
            continue
        above = module.name
        while module.kind == "linear" and not module.head and "." in above:
            above = above.rpartition(".")[0]
            if sizes.get(above) == module.out_features and sizes[above] > 1 and not _OF_ONE_EXPERT.match(module.name):
                yield module
                break
