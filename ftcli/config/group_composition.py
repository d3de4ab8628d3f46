"""Chosen group files → the values of each group, composed by Hydra: the only place that calls it to compose.

Our strict loader has read every file and passes plain data to Hydra through its ConfigStore; Hydra never opens a file.
No file of a group may hold defaults or a package, and references stay unresolved until every layer is in place: so what
Hydra makes of a group depends on its file alone, and stays valid for the later compositions of a process. A pipeline
composes a run for each of its stages, and a composition takes some 60 ms.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ftcli.config.references import with_texts
from ftcli.core.strict_yaml import Document

ROOT_CONFIG = "config"
# Hydra's own settings come from files of its package: they take a third of the composition, and nothing here uses them.
_NO_HYDRA_NODE = [
    {f"override hydra/{name}": None}
    for name in ("env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper")
]
_composed: dict[tuple[str, str, str], Any] = {}
"""What Hydra made of a file: by its group, its choice and all that it says; the root's settings by its name alone."""


def compose_groups(choices: Mapping[str, str], documents: Mapping[str, Document], root: Document) -> dict[str, Any]:
    """The values of each group, and the root's own settings, as Hydra composes them."""
    keys = {group: (group, choices[group], repr(document.data)) for group, document in documents.items()}
    own = ("", ROOT_CONFIG, repr(root.data))
    if not _composed.keys() >= {own, *keys.values()}:
        tree = compose_by_hydra(choices, documents, root)
        _composed.update({key: tree.pop(group) for group, key in keys.items()})
        _composed[own] = tree
    kept = {**_composed[own], **{group: _composed[key] for group, key in keys.items()}}
    return copy.deepcopy(kept)


def compose_by_hydra(choices: Mapping[str, str], documents: Mapping[str, Document], root: Document) -> dict[str, Any]:
    """Let Hydra compose the chosen groups from plain data held in its ConfigStore."""
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    # The store and GlobalHydra are per process: what an earlier composition left in them is overwritten or cleared.
    store = ConfigStore.instance()
    # The choices stand in the defaults list, and not in overrides, whose grammar costs as much as what they choose.
    chosen = [{group: choice} for group, choice in choices.items()]
    store.store(name=ROOT_CONFIG, node={**root.data, "defaults": [*chosen, *_NO_HYDRA_NODE, "_self_"]})
    for group, document in documents.items():
        store.store(group=group, name=choices[group], node=_masked(document.data))
    GlobalHydra.instance().clear()
    # Named a package, which holds no such files, Hydra need not look for its caller in the source of the whole stack.
    with initialize_config_module("ftcli.config", version_base="1.3"):
        config = compose(ROOT_CONFIG)
    # References stay unresolved until every layer is in place: a recipe may refer to what the command line sets.
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): with_texts(value, lambda text: text.replace(_MASK, "${")) for key, value in tree.items()}


_MASK = "\ud800{"
"""Stands for `${` in what Hydra is given, which it would parse by its own grammar; no file can contain it."""


def _masked(value: Any) -> Any:
    return with_texts(value, lambda text: text.replace("${", _MASK))
