"""Whether llama.cpp divides text and renders conversations as a model was trained, asked of llama.cpp itself.

Its converter knows a tokenizer by the hash of what it makes of one text. Two tokenizers that differ elsewhere have the
same hash: one without the step that sets digits apart passes for SmolLM2's, and line breaks before a digit become other
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.endpoints import llama_server
from ftcli.endpoints.address import Address, Refused
from ftcli.models.export.compared_conversations import CONVERSATIONS, TEXTS, Turn
from ftcli.models.templates.chat_template import chat_template, special_tokens
from ftcli.models.templates.template_rendering import Render, TemplateRejection, renderer

_SMALL = ("--ctx-size", "256", "--n-gpu-layers", "0")
"""Nothing is computed."""
OTHER = "ftcli export --to folder, or --to vllm, serves it as it was trained"


def read_back(file: Path, tokenizer: Path, where: str) -> Sequence[str]:
    """Have llama.cpp load a GGUF file and read texts, and say what of the conversations it renders otherwise.

    Args:
        tokenizer: the folder with the tokenizer and the template that the model was trained with.

    Raises:
        ConfigError: llama.cpp cannot load it, or divides a text otherwise.
    """
    if not (tokenizer / "tokenizer.json").is_file():
        return ("not compared with its tokenizer, which has no tokenizer.json",)
    if not llama_server.is_installed():
        return (f"not read back by llama.cpp, which is not installed: {llama_server.REMEDY}",)
    template = chat_template(tokenizer)
    with llama_server.serving(file, *_SMALL) as server:
        differs = [*_differing(server, tokenizer, renderer(template, tokenizer) if template is not None else None)]
    if texts := [what for kind, what in differs if kind == "text"]:
        what = f"llama.cpp divides {len(texts)} of {len(TEXTS)} texts otherwise than its tokenizer, as {texts[0]!r}"
        raise ConfigError(Problem(where, what, OTHER))
    if prompts := [what for kind, what in differs if kind == "prompt"]:
        known = f"{len(prompts)} of {len(CONVERSATIONS)} conversations"
        return (f"llama.cpp renders {known} otherwise than its chat template: ask it for completions of text",)
    return (f"read back by llama.cpp: {len(TEXTS)} texts and all conversations are the tokens that were trained",)


def _differing(server: Address, tokenizer: Path, render: Render | None) -> Iterator[tuple[str, str]]:
    """What llama.cpp reads otherwise: ("text", a text) or ("prompt", a conversation as it was trained)."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    own.no_padding()
    own.no_truncation()
    bos = special_tokens(tokenizer).get("bos_token", "")
    for text in TEXTS if render is None else ():
        if llama_server.tokenised(server, text) != own.encode(text).ids:
            yield "text", text
    if render is None:
        return
    asked: list[tuple[str, Sequence[Turn]]] = [(text, [{"role": "user", "content": text}]) for text in TEXTS]
    for text, turns in [*asked, *(("", turns) for turns in CONVERSATIONS)]:
        try:
            said = render(turns, None, opened=True)
        except TemplateRejection:
            continue
        try:
            shown = llama_server.rendered(server, {"messages": list(turns)})
        except Refused:
            yield "prompt", said
            continue
        # The server takes the BOS token away where it adds it itself.
        same = shown in (said, said.removeprefix(bos))
        if text and llama_server.tokenised(server, shown) != own.encode(said, add_special_tokens=False).ids and same:
            yield "text", text
        elif not text and not same:
            yield "prompt", said
