"""The programs that serve models: which is here, what it can serve, and the words that start it.

Each listens on this machine alone, speaks OpenAI's form, and gets the template and the end tokens as they were trained.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.endpoints import llama_server
from ftcli.models import availability, sources
from ftcli.models.export.vllm_adapters import servable_adapter
from ftcli.models.templates.chat_template import GENERATION, TEMPLATE_FILE, end_tokens

HOST = "127.0.0.1"
TRANSFORMERS, VLLM, LLAMA_CPP = "transformers", "vllm", "llama.cpp"
_SERVES = ("fastapi", "uvicorn", "openai")
"""What `transformers serve` needs beside transformers."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is to be served: one model, and adapters on it by name."""

    name: str
    """What the user called it, for messages."""
    model: Path | str
    """A model folder, a GGUF, or a hub id; below adapters, their base."""
    adapters: Mapping[str, Path]
    """Adapter folders by the names under which they are asked; empty where the model itself is asked."""
    trained: Path | None = None
    """The folder with the tokenizer, template and end tokens of training; None for a GGUF, which holds its own."""

    @property
    def is_gguf(self) -> bool:
        """Whether the model is a GGUF file."""
        return str(self.model).endswith(".gguf")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that serves models."""

    name: str
    is_here: Callable[[], bool]
    remedy: str
    """What to type where it is missing."""
    unfit: Callable[[Served], tuple[str, str] | None]
    """Why it cannot serve something, and the remedy; None where it can."""
    words: Callable[[Served, int], list[str]]
    """What starts it on a port."""
    names: Callable[[Served], list[str]]
    """The names by which its models are asked."""
    page: bool = False
    """Whether it has a chat page at its address."""


def _own_name(served: Served) -> str:
    return Path(served.name).stem if served.is_gguf else Path(served.name).name


def _merged_first(adapter: Path) -> str:
    run = adapter.parent if adapter.name == "model" else adapter
    return f"ftcli merge {shell_word(run)}, then ftcli serve {shell_word(run / 'merged')}"


# --- transformers serve -----------------------------------------------------------------------------------------------


def _transformers_unfit(served: Served) -> tuple[str, str] | None:
    if served.is_gguf:
        return "transformers serve is not used for a GGUF", f"--with {LLAMA_CPP}"
    if served.adapters:
        first = next(iter(served.adapters.values()))
        return "transformers serve loads whole models only, and this is an adapter", _merged_first(first)
    return None


def _transformers(served: Served, port: int) -> list[str]:
    # By its module: the program of that name on PATH may be that of another installation.
    start = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(served.model)]
    return [*start, "--host", HOST, "--port", str(port)]


# --- vLLM -------------------------------------------------------------------------------------------------------------


def _vllm_unfit(served: Served) -> tuple[str, str] | None:
    if served.is_gguf:
        return "vLLM is not used for a GGUF", f"--with {LLAMA_CPP}"
    for name, folder in served.adapters.items():
        if why_not := servable_adapter(folder).why_not:
            return f"vLLM does not serve {name} on its base: {why_not}", _merged_first(folder)
    return None


def _vllm(served: Served, port: int) -> list[str]:
    words = ["vllm", "serve", str(served.model), "--host", HOST, "--port", str(port)]
    if served.adapters:
        size = max(servable_adapter(folder).rank for folder in served.adapters.values())
        named = [f"{name}={folder}" for name, folder in served.adapters.items()]
        words += [
            "--enable-lora",
            "--max-lora-rank",
            str(size),
            "--max-loras",
            str(len(named)),
            "--lora-modules",
            *named,
        ]
    else:
        words += ["--served-model-name", _own_name(served)]
    if served.trained is not None:
        template = served.trained / TEMPLATE_FILE
        words += ["--chat-template", str(template)] if template.is_file() else []
        words += ["--generation-config", str(served.trained)] if (served.trained / GENERATION).is_file() else []
        words += ["--tokenizer", str(served.trained)] if served.adapters else []
    return words


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _llama_unfit(served: Served) -> tuple[str, str] | None:
    if served.is_gguf:
        return None
    named = shell_word(served.name)
    return "llama.cpp serves GGUF files", f"ftcli export {named} --to gguf, then ftcli serve FILE.gguf"


PROGRAMS: Mapping[str, Program] = {
    each.name: each
    for each in (
        Program(
            name=VLLM,
            is_here=lambda: shutil.which("vllm") is not None,
            remedy="pip install vllm, on a machine with a GPU",
            unfit=_vllm_unfit,
            words=_vllm,
            names=lambda served: [*served.adapters] or [_own_name(served)],
        ),
        Program(
            name=TRANSFORMERS,
            is_here=lambda: all(importlib.util.find_spec(name) is not None for name in _SERVES),
            remedy="pip install 'transformers[serving]'",
            unfit=_transformers_unfit,
            words=_transformers,
            names=lambda served: [str(served.model)],
        ),
        Program(
            name=LLAMA_CPP,
            is_here=llama_server.is_installed,
            remedy=llama_server.REMEDY,
            unfit=_llama_unfit,
            words=lambda served, port: llama_server.command(
                Path(str(served.model)), port=port, alias=_own_name(served)
            ),
            names=lambda served: [_own_name(served)],
            page=True,
        ),
    )
}
"""In the order in which one is taken where none is named."""


def chosen(served: Served, wanted: str | None, where: str) -> Program:
    """The program to serve something: the one that is named, else the first that is here and can.

    Raises:
        ConfigError: it is not installed, or none can serve this.
    """
    if wanted is not None:
        program = PROGRAMS[wanted]
        if unfit := program.unfit(served):
            raise ConfigError(Problem(where, *unfit))
        if not program.is_here():
            raise ConfigError(Problem(where, f"{wanted} is not installed", program.remedy))
        return program
    fits = {each.name: each.unfit(served) for each in PROGRAMS.values()}
    for program in PROGRAMS.values():
        if fits[program.name] is None and program.is_here():
            return program
    missing = [each for each in PROGRAMS.values() if fits[each.name] is None and not each.is_here()]
    reasons = "; ".join(f"{each.name} is not installed" for each in missing)
    others = [unfit for each in PROGRAMS.values() if each.is_here() and (unfit := fits[each.name])]
    if others:
        reasons = "; ".join(filter(None, [reasons, *(what for what, _ in others)]))
    fix = "; or ".join([*(fix for _, fix in others), *(each.remedy for each in missing)])
    raise ConfigError(Problem(where, f"nothing here can serve it: {reasons}", fix))


def served_of(names: Sequence[str], where: str) -> Served:
    """What names of runs, model folders or a GGUF stand for: one model, or several adapters on one base.

    Raises:
        ConfigError: a name holds no causal LM, or several are not adapters on the same base.
    """
    if len(names) == 1 and names[0].endswith(".gguf"):
        if not Path(names[0]).is_file():
            raise ConfigError(Problem(where, f"there is no file {names[0]}", "name a GGUF file"))
        return Served(name=names[0], model=Path(names[0]).resolve(), adapters={})
    adapters: dict[str, Path] = {}
    bases: dict[str, str] = {}
    for name in names:
        source = sources.model_source(name)
        if source is None:
            raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run, a model folder or a GGUF"))
        if source.folder is not None and sources.head_of(source.folder) != "causal_lm":
            what = f"{name} is a reward model, which answers no prompts"
            raise ConfigError(Problem(where, what, f"ftcli score {shell_word(name)} ROWS"))
        if source.hub_id is not None:
            availability.require(source.hub_id, None, where)
        if not source.is_adapter:
            if len(names) > 1:
                what = f"{name} is a whole model, and only adapters on one base are served side by side"
                raise ConfigError(Problem(where, what, "serve it by itself, on another --port"))
            return Served(name=name, model=source.folder or str(source.hub_id), adapters={}, trained=source.folder)
        assert source.folder is not None
        below = sources.model_source(sources.base_of(source.folder))
        if below is None or below.is_adapter:
            what = f"{name} is an adapter on {'another adapter' if below else 'a model that is not here'}"
            raise ConfigError(Problem(where, what, f"ftcli merge {shell_word(name)}, and serve the merged model"))
        word = Path(name).name if Path(name).name != "model" else Path(name).parent.name
        if word in adapters:
            raise ConfigError(Problem(where, f"two adapters are called {word}", "copy one to a folder of another name"))
        adapters[word], bases[below.location] = source.folder, name
    if len(bases) > 1:
        told = " and ".join(f"{name} was trained on {base}" for base, name in bases.items())
        raise ConfigError(Problem(where, told, "serve each by itself, on another --port"))
    [base] = bases
    _require_alike(adapters, where)
    return Served(name=names[0], model=base, adapters=adapters, trained=next(iter(adapters.values())))


def _require_alike(adapters: Mapping[str, Path], where: str) -> None:
    """Check that adapters were trained with the same template, tokenizer and end tokens: a server has one for all."""
    (first, own), *others = adapters.items()
    for name, folder in others:
        for part, read in _SHARED.items():
            if read(folder) != read(own):
                what = f"{name} was trained with {part} other than those of {first}, and a server has one set for all"
                raise ConfigError(Problem(where, what, "serve each by itself, on another --port"))


def _bytes(name: str) -> Callable[[Path], bytes | None]:
    return lambda folder: (folder / name).read_bytes() if (folder / name).is_file() else None


_SHARED: Mapping[str, Callable[[Path], object]] = {
    "chat templates": _bytes(TEMPLATE_FILE),
    "tokens": _bytes("tokenizer.json"),
    "end tokens": end_tokens,
}
