"""A configuration under construction: layers of values, each value with the place that set it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config.overrides import Override
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import Document, KeyPath


@dataclass(frozen=True)
class Origin:
    """Where a value was set: the place, and the layer (group, run, recipe or cli)."""

    where: str
    by: str


class Tree:
    """A tree under construction: later values replace earlier ones, and the place of the last is kept."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[KeyPath, Origin] = {}
        self.literal: dict[KeyPath, Any] = {}

    def where(self, path: KeyPath) -> str:
        """The place of a value, or of its nearest ancestor that has one."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins[path].where if path else ""

    def forget(self, path: KeyPath) -> None:
        """Drop the origins and literals at and below `path`."""
        for table in (self.origins, self.literal):
            for known in [known for known in table if known[: len(path)] == path]:
                table.pop(known)

    def set(self, path: KeyPath, value: Any, origin: Origin, *, literal: bool = False) -> None:
        """Set one value, replacing everything at and below its path.

        A literal value that contains `${` is kept apart until references are resolved, so that it is never
        interpolated; any other value is in the tree, where references find it.
        """
        node = self.data
        for depth, key in enumerate(path[:-1], 1):
            if not isinstance(node.get(key), dict):
                node[key] = {}
                self.forget(path[:depth])
            node = node[key]
        self.forget(path)
        held = literal and "${" in json.dumps(value, default=str)
        node[path[-1]] = None if held else copy.deepcopy(value)
        if held:
            self.literal[path] = copy.deepcopy(value)
        self.origins[path] = origin

    def lay(
        self, values: Mapping[str, Any], document: Document, by: str, literal: frozenset[KeyPath] | None = frozenset()
    ) -> None:
        """Lay a file's values over the tree: settings of a group one by one, deeper mappings whole.

        `literal` names the values that are never interpolated; None means all of them.
        """
        for group, settings in values.items():
            if not isinstance(settings, dict):
                self.set((group,), settings, Origin(document.where((group,)), by), literal=literal is None)
                continue
            for key, value in settings.items():
                path, plain = (group, key), literal is None or (group, key) in literal
                self.set(path, value, Origin(document.where(path), by), literal=plain)
                if isinstance(value, dict):  # so that a fault deep inside is reported with its own line
                    below = (known for known in document.lines if known[:2] == path and len(known) > 2)
                    self.origins.update({deep: Origin(document.where(deep), by) for deep in below})

    def delete(self, override: Override) -> None:
        """Remove a setting.

        Raises:
            ConfigError: it is not set.
        """
        node: Any = self.data
        for key in override.key[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or override.key[-1] not in node:
            raise ConfigError(Problem(override.text, f"{override.name} is not set, so it cannot be removed", "drop it"))
        del node[override.key[-1]]
        self.forget(override.key)
