"""Makes the README fit for a package index, whose page stands alone: a relative link leads nowhere there.

hatchling calls it while it builds (`tool.hatch.metadata.hooks.custom` in pyproject.toml). The project's hosted address
is written in one place, `project.urls.Repository`. With it, links lead to the files as they were at the version's tag,
and the page gets the usual links beside. Without it they become plain text that names the file, which the source
distribution contains.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_WITHOUT = "\nFiles that this page names are part of the source distribution.\n"


def long_description(readme: str, repository: str | None, version: str) -> str:
    """The README without relative links; `repository` is an address of GitHub's form, or None where there is none."""

    def replaced(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        if re.match(r"[a-z]+:", target):
            return link[0]
        file, _, anchor = target.partition("#")
        if repository:
            place = f"{repository.rstrip('/')}/blob/v{version}/{file or 'README.md'}"
            return f"[{text}]({place}#{anchor})" if anchor else f"[{text}]({place})"
        if not file:
            return text
        return f"`{file}`" if text == file else f"{text} (`{file}`)"

    pieces = _FENCED.split(readme)
    pieces[::2] = [_LINK.sub(replaced, piece) for piece in pieces[::2]]
    return "".join(pieces) + ("" if repository else _WITHOUT)


class CustomMetadataHook(MetadataHookInterface):
    """Sets `readme`, and completes `urls` where the repository's address is known."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what pyproject.toml leaves to this hook."""
        urls, version = metadata.get("urls", {}), metadata["version"]
        repository = urls.get("Repository")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        page = long_description(text, repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": page}
        if repository:
            base = repository.rstrip("/")
            urls.setdefault("Documentation", f"{base}/blob/v{version}/docs/README.md")
            urls.setdefault("Changelog", f"{base}/blob/v{version}/CHANGELOG.md")
            urls.setdefault("Issues", f"{base}/issues")
