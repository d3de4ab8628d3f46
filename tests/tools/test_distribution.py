"""What leaves the repository: the index page, the dependencies, the changelog, and the checks around a contribution."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ftcli import __version__
from tests.conftest import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY_URL = "https://forge.example/someone/ftcli"
BUILD = "from hatchling.build import prepare_metadata_for_build_wheel as p; import sys; print(p(sys.argv[1]))"


def metadata(project: Path, into: Path) -> Message:
    """The metadata that the wheel of a project folder would carry, made by its build backend."""
    command = [sys.executable, "-c", BUILD, str(into)]
    built = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    [folder] = built.stdout.split()
    return email.message_from_string((into / folder / "METADATA").read_text(encoding="utf-8"))


def targets(markdown: str) -> list[str]:
    """Where every link and image of a page leads, as a Markdown parser sees it."""

    def walk(tokens: Any) -> Iterator[str]:
        for token in tokens:
            yield from (str(token.attrs[name]) for name in ("href", "src") if name in token.attrs)
            yield from walk(token.children or ())

    html = re.findall(r"""(?:href|src)=["']([^"']+)""", markdown)
    return [*walk(MarkdownIt("commonmark").parse(markdown)), *html]


def relative(markdown: str) -> list[str]:
    """The links that lead nowhere on a page that stands alone."""
    return [target for target in targets(markdown) if not re.match(r"(https?|mailto):", target)]


@pytest.fixture
def hosted(tmp_path: Path) -> Path:
    """What a build reads of this project, with the address that it would be hosted at."""
    project = tmp_path / "project"
    (project / "ftcli").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "tools", project / "tools")
    for name in ("README.md", "LICENSE", "ftcli/__init__.py"):
        shutil.copy(REPOSITORY / name, project / name)
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    kept = re.sub(r"^Repository = .*\n", "", settings, flags=re.M)
    with_url = kept.replace("[project.urls]\n", f'[project.urls]\nRepository = "{REPOSITORY_URL}/"\n')
    assert with_url != kept
    (project / "pyproject.toml").write_text(with_url, encoding="utf-8")
    return project


def test_relative_links_are_seen_in_whatever_form_they_are_written() -> None:
    page = '[a](docs/a.md) ![b](b.png) [c]\n\n[c]: ../c.md\n\n<a href="d.md">d</a> [e](#e) [f](https://f.example)\n'
    assert sorted(relative(page)) == ["#e", "../c.md", "b.png", "d.md", "docs/a.md"]


def test_the_index_page_has_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    page = metadata(REPOSITORY, tmp_path).get_payload()
    assert relative((REPOSITORY / "README.md").read_text(encoding="utf-8")), "the README links nothing: test what?"
    assert relative(page) == []
    assert "`docs/methods.md`" in page or "docs/methods.md)" in page
    assert "```sh\nmake demo\n```" in page


def test_the_index_page_links_to_the_files_of_its_version_where_the_address_is_known(
    hosted: Path, tmp_path: Path
) -> None:
    found = metadata(hosted, tmp_path)
    page = found.get_payload()
    assert relative(page) == []
    base = f"{REPOSITORY_URL}/blob/v{__version__}/"
    linked = [target.removeprefix(base).partition("#")[0] for target in targets(page) if target.startswith(base)]
    assert {"docs/runs.md", "LICENSE", "CHANGELOG.md"} <= set(linked)
    assert [name for name in linked if not (REPOSITORY / name).is_file()] == []
    assert f"{base}docs/runs.md#several-processes" in targets(page)
    urls = dict(line.split(", ", 1) for line in found.get_all("Project-URL", []))
    assert urls["Changelog"] == f"{base}CHANGELOG.md"
    assert urls["Issues"] == f"{REPOSITORY_URL}/issues"


def requirements() -> list[Requirement]:
    """All that the package may ask for, extras and build backend included, but itself."""
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    texts += [text for extra in project["optional-dependencies"].values() for text in extra]
    return [each for each in map(Requirement, texts) if each.name != "ftcli"]


def test_every_requirement_is_pinned_inside_its_range() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}
    wrong = {
        str(each): pins.get(canonicalize_name(each.name))
        for each in requirements()
        if not each.specifier.contains(pins.get(canonicalize_name(each.name)) or "0.dev0", prereleases=False)
        or canonicalize_name(each.name) not in pins
    }
    assert wrong == {}


def test_the_changelog_has_the_version_and_room_for_the_next() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *releases = re.findall(r"^## (.+)$", text, re.M)
    assert first == "[Unreleased]"
    matched = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in releases]
    assert all(matched), releases
    versions = [Version(match[1]) for match in matched if match]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == Version(__version__)
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_hooks_check_what_lint_checks_with_the_tools_of_the_environment_and_nothing_from_elsewhere() -> None:
    [repository] = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    hooks = {hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]}
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert lint is not None
    checks = {re.sub(r" --check| \.$", "", line.strip()) for line in lint[1].splitlines()}
    assert hooks == {re.sub(r" \.$", "", check).replace("$(BIN)", ".venv/bin") for check in checks}


def test_the_hosted_checks_are_the_local_ones_on_every_python_that_is_promised() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["ci"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    said = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PYPROJECT["project"]["classifiers"]]
    assert job["strategy"]["matrix"]["python-version"] == [match[1] for match in said if match]


@pytest.mark.parametrize(
    "form", sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem
)
def test_an_issue_form_is_one_that_the_forge_takes(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert content == {"blank_issues_enabled": True}
        return
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) > 0
    for field in fields:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
        assert all(option["label"] for option in field["attributes"].get("options", []))
    assert any(field.get("validations", {}).get("required") for field in fields)
