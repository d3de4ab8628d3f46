"""Small tokenizers for every chat template that ships, and what serving asks of them.

The expectation is made of the tokenizer's public `apply_chat_template` alone, turn by turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import trl
from jinja2 import TemplateError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli import tiny
from ftcli.worker.tokenise.encoder import IGNORED, Encoder

Turns = list[dict[str, Any]]

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path for path in sorted(FOLDER.glob("*.jinja")) if not path.stem.endswith("_training")}
TEMPLATES["tiny"] = Path(tiny.MODEL_DIR) / "chat_template.jinja"
ENDS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<｜end▁of▁sentence｜>",),
    "diffusion_gemma": ("<turn|>", "<|tool_response>"),
    "gemma": ("<end_of_turn>",),
    "gemma4": ("<turn|>", "<|tool_response>"),
    "glm4moe": ("<|endoftext|>",),
    "gptoss": ("<|return|>", "<|call|>"),
    "idefics3": ("<end_of_utterance>",),
    "llama3": ("<|eot_id|>", "<|eom_id|>"),
    "llava_next": ("</s>",),
    "muse_glimmer": ("<|eot|>",),
    "phi3": ("<|endoftext|>", "<|end|>"),
    "smolvlm": ("<end_of_utterance>",),
}
"""The tokens at which models stop, by how the template's name begins; the others, Qwen's relatives, stop here:"""
CHATML = ("<|im_end|>",)
TOKEN = re.compile(r"<\|[A-Za-z_]+\|?>|<[a-z_]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_\w+>")
WORD = re.compile(r"\w+")
TEXTS = [
    "The red house and a tree.\n\nRain, \n\n\n and the moon:\n",
    "user\nassistant\n Hello, hello world! é日本🙂",
] * 8


def needs_parts(name: str) -> bool:
    """Whether a template writes nothing of a content that is text."""
    return name in ("idefics3", "llava_next", "smolvlm")


def ends_of(name: str) -> tuple[str, ...]:
    fitting = [prefix for prefix in ENDS if name.startswith(prefix)]
    return ENDS[max(fitting, key=len)] if fitting else CHATML


@cache
def byte_level() -> str:
    """A byte-level BPE tokenizer that merges line breaks, as JSON, with every special token of every template."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\r\n\w]?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, min_frequency=2))
    special = {token for path in TEMPLATES.values() for token in TOKEN.findall(path.read_text(encoding="utf-8"))}
    special |= {"<s>", "</s>", "<|endoftext|>"}
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in sorted(special)])
    return found.to_str()


@cache
def encoder_of(template: str, ends: tuple[str, ...], backend: str = "") -> Encoder:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend or byte_level()), bos_token="<s>", eos_token=ends[0]
    )
    tokenizer.chat_template = template
    return Encoder(tokenizer, tokenizer.convert_tokens_to_ids(list(ends)))


@cache
def shipped(name: str) -> Encoder:
    return encoder_of(TEMPLATES[name].read_text(encoding="utf-8"), ends_of(name))


@cache
def sentencepiece(kind: str) -> str:
    """A tokenizer of the SentencePiece kind, whose tokens carry the space before a word, as JSON."""
    found = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    found.train_from_iterator([text.split("é")[0] + " [INST] USER: [/INST] ASSISTANT:" for text in TEXTS], trainer)
    if kind == "normalised":  # Llama 2: every section that is no special token begins with a space
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        found.pre_tokenizer = pre_tokenizers.Sequence([])
    else:
        found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    parts = json.loads(found.to_str())
    parts["added_tokens"] = parts["added_tokens"][:3]  # bytes are no added tokens
    return json.dumps(parts, separators=(",", ":"))


class Wanted(NamedTuple):
    labels: list[int]
    texts: list[str]
    """What is trained, an answer each."""
    last_turn_only: bool
    text: str


def rendered(encoder: Encoder, turns: Turns, tools: Any, opened: bool = False, **more: Any) -> Any:
    arguments = {"tokenize": False, "add_generation_prompt": opened, **more}
    return encoder.tokenizer.apply_chat_template(turns, tools=tools, **arguments)


def plain_ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def unsaid(turn: dict[str, Any], answer: str) -> bool:
    """Whether an answer lacks something that its turn says: its text, its reasoning, or a part of its call."""
    functions = [call["function"] for call in turn.get("tool_calls", ())]
    said = [turn["content"], turn.get("reasoning_content", ""), *(function["name"] for function in functions)]
    said += [text for function in functions for pair in function["arguments"].items() for text in pair]

    def words(text: str) -> str:
        return " " + " ".join(WORD.findall(text)) + " "

    for text in filter(None, map(str.strip, said)):
        forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
        if not any(form in answer for form in forms) and (not words(text).strip() or words(text) not in words(answer)):
            return True
    return False


def wanted(encoder: Encoder, ends: Sequence[str], turns: Turns, tools: Any) -> Wanted | str:
    """The labels that serving asks for, or why there are none."""
    asked = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight", 1)]
    try:
        text = rendered(encoder, turns, tools)
        served = [(rendered(encoder, turns[:i], tools, True), rendered(encoder, turns[: i + 1], tools)) for i in asked]
    except (TemplateError, TypeError):
        return "refuses the row"
    answers = []
    for prompt, whole in served:
        added = whole[len(prompt) :] if whole.startswith(prompt) else None
        places = [at + len(end) for end in ends if (at := (added or "").find(end)) >= 0]
        answer = added[: min(places, default=len(added))] if added is not None else None
        answers.append(answer if answer is not None and text.startswith(prompt + answer) else None)
    if answers[-1] is None:
        return "would not be trained as it is served"
    rewritten = None in answers
    kept = list(zip(served, answers, strict=True))[-1 if rewritten else 0 :]
    kept_turns = [turns[i] for i in asked][-1 if rewritten else 0 :]
    if any(unsaid(turn, str(answer)) for turn, (_, answer) in zip(kept_turns, kept, strict=True)):
        return "(leaves out|drops the assistant's text)"
    ids = rendered(encoder, turns, tools, tokenize=True, return_dict=False)
    labels = [IGNORED] * len(ids)
    for (prompt, _), answer in kept:
        before, through = plain_ids(encoder, prompt), plain_ids(encoder, prompt + answer)
        if ids[: len(before)] != before:
            return "would not be trained as it is served"
        labels[len(before) : len(through)] = ids[len(before) : len(through)]
    return Wanted(labels, [answer for _, answer in kept], rewritten, text)


def outside_marks(encoder: Encoder, turns: Turns, tools: Any, text: str) -> list[int]:
    """Places that the template, or TRL's training version where it writes the same, does not mark as generated."""
    marking = encoder.tokenizer.chat_template
    if not has_generation_markers(marking):
        marking = training_version(encoder)
    if marking is None or rendered(encoder, turns, tools, chat_template=marking) != text:
        return []
    arguments = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    mask = rendered(encoder, turns, tools, chat_template=marking, **arguments)["assistant_masks"]
    # transformers marks the first byte of a character alone where it is several tokens and the last.
    ids = rendered(encoder, turns, tools, tokenize=True, return_dict=False)
    return [i for i, marked in enumerate(mask) if not marked and encoder.tokenizer.decode([ids[i]]) != "�"]


def training_version(encoder: Encoder) -> str | None:
    try:
        return get_training_chat_template(encoder.tokenizer)
    except ValueError:
        return None
