"""Small tokenizers for every chat template that ships, and what serving asks of them.

The expectation is made of the tokenizer's public `apply_chat_template` alone, turn by turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import chain
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
    "glm4moe": ("<|endoftext|>", "<|user|>", "<|observation|>"),
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


class WantedExample(NamedTuple):
    turns: Turns
    """The turns that it holds."""
    text: str
    ids: list[int]
    labels: list[int]
    as_written: bool
    """Whether the text is what the template writes for its turns, so that its marks count."""


class Wanted(NamedTuple):
    examples: list[WantedExample]
    texts: list[str]
    """What is trained, an answer each."""

    @property
    def unrolled(self) -> bool:
        return len(self.examples) > 1


def rendered(encoder: Encoder, turns: Turns, tools: Any, opened: bool = False, **more: Any) -> Any:
    arguments = {"tokenize": False, "add_generation_prompt": opened, **more}
    return encoder.tokenizer.apply_chat_template(turns, tools=tools, **arguments)


def plain_ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def unsaid(turn: dict[str, Any], answer: str) -> bool:
    """Whether an answer lacks something that its turn says: its text, its reasoning, or a part of its call."""
    functions = [call["function"] for call in turn.get("tool_calls", ())]
    said = [turn["content"] or "", turn.get("reasoning_content", ""), *(function["name"] for function in functions)]
    given = [function["arguments"] for function in functions]
    said += [
        text for each in given for text in ([each] if isinstance(each, str) else chain.from_iterable(each.items()))
    ]

    def words(text: str) -> str:
        return " " + " ".join(WORD.findall(text)) + " "

    for text in filter(None, map(str.strip, said)):
        forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
        if not any(form in answer for form in forms) and (not words(text).strip() or words(text) not in words(answer)):
            return True
    return False


def as_taken(encoder: Encoder, turns: Turns) -> Turns:
    """The turns as DeepSeek V3's template takes calls: with the arguments as JSON text."""
    if "is_first_sp" not in encoder.tokenizer.chat_template:
        return turns
    return [{**turn, "tool_calls": [texted(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn
            for turn in turns]  # fmt: skip


def texted(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def bare(turns: Turns) -> Turns:
    return [
        {key: value for key, value in turn.items() if key not in ("reasoning_content", "thinking")} for turn in turns
    ]


def written_after(prompt: str, whole: str, turn: dict[str, Any]) -> str | None:
    """What the model writes after the prompt, which may have opened its reasoning."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    header = prompt.removesuffix("<think>\n")
    if header == prompt or not whole.startswith(header):
        return None
    rest, reasoning = whole[len(header) :], turn.get("reasoning_content", "").strip()
    if rest.startswith("<think>"):
        return rest.removeprefix("<think>")
    return reasoning + "\n</think>\n\n" + (rest.lstrip() if reasoning else rest)


def asks_for_reasoning(encoder: Encoder) -> bool:
    """Whether the generation prompt opens the reasoning."""
    return str(rendered(encoder, [{"role": "user", "content": "?"}], None, True)).endswith("<think>\n")


def ending_of(encoder: Encoder, ends: Sequence[str], turn: dict[str, Any]) -> str:
    """The token that ends an answer after which the template writes none: GLM stops where the next turn begins."""
    if "<|observation|>" in ends:
        return "<|observation|>" if turn.get("tool_calls") else "<|user|>"
    return ends[0]


def wanted(encoder: Encoder, ends: Sequence[str], turns: Turns, tools: Any) -> Wanted | str:
    """The training examples that serving asks for, or why there are none."""
    turns = as_taken(encoder, turns)
    asked = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight", 1)]
    try:
        text = rendered(encoder, turns, tools)
        served = [(rendered(encoder, turns[:i], tools, True), rendered(encoder, turns[: i + 1], tools)) for i in asked]
        plain = [
            (rendered(encoder, bare(turns[:i]), tools, True), rendered(encoder, [*bare(turns[:i]), turns[i]], tools))
            for i in asked
        ]
    except (TemplateError, TypeError):
        return "refuses the row"
    answers, appended = [], []
    for i, (prompt, whole), (before, through) in zip(asked, served, plain, strict=True):
        added = written_after(prompt, whole, turns[i])
        if added is None and added != (other := written_after(before, through, turns[i])):
            added = other
        if added is None:
            closes = prompt.endswith("</think>\n\n") and turns[i].get("reasoning_content", "").strip()
            return f"reasoning of turn {i + 1} cannot be trained" if closes else "would not be trained as it is served"
        places = [at + len(end) for end in ends if (at := added.find(end)) >= 0]
        appended.append("" if places else ending_of(encoder, ends, turns[i]))
        answers.append(added[: min(places)] if places else added + appended[-1])
    opened = [prompt.endswith("<think>\n") and asks_for_reasoning(encoder) for prompt, _ in served]
    last = text + (appended[-1] if asked[-1] == len(turns) - 1 else "")
    apart = [one and answer[:1].isspace() for one, answer in zip(opened, answers, strict=True)]
    together = not any(apart) and all(last.startswith(p + a) for (p, _), a in zip(served, answers, strict=True))
    for i, (_, _), answer in zip(asked, served, answers, strict=True):
        if unsaid(turns[i], answer):
            return "(leaves out|drops the assistant's text)"
    if together:
        ids = plain_ids(encoder, last)
        labels = [IGNORED] * len(ids)
        for (prompt, _), answer in zip(served, answers, strict=True):
            before, through = plain_ids(encoder, prompt), plain_ids(encoder, prompt + answer)
            if ids[: len(before)] != before:
                return "would not be trained as it is served"
            labels[len(before) : len(through)] = ids[len(before) : len(through)]
        return Wanted([WantedExample(turns, last, ids, labels, last == text)], answers)
    examples = []
    for i, (prompt, whole), answer, end, divided, opens in zip(
        asked, served, answers, appended, apart, opened, strict=True
    ):
        begins = whole.startswith(prompt)
        own = whole if begins and not end else prompt + answer
        before = plain_ids(encoder, prompt)
        if opens and (divided or not begins):
            ids = before + plain_ids(encoder, own[len(prompt) :])
            stop = len(before) + len(plain_ids(encoder, answer))
        else:
            ids, stop = plain_ids(encoder, own), len(plain_ids(encoder, prompt + answer))
        if ids[: len(before)] != before:
            return "would not be trained as it is served"
        labels = [IGNORED] * len(before) + ids[len(before) : stop] + [IGNORED] * (len(ids) - stop)
        examples.append(WantedExample(turns[: i + 1], own, ids, labels, begins and not end))
    return Wanted(examples, answers)


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
