"""What every tool is given: the same rows, in the file format that it reads, and the same tokenizer.

The rows are the 999 Alpaca rows of shared/data/alpaca_en_demo.json over and over, each with its number in the
instruction, so that no two are alike and no cache of texts can help. The tokenizer is a byte-level BPE of 32,000
tokens with Qwen's splitting rule and plain ChatML, trained once on the demo sets and on Python's standard library: no
hub is asked. A config.json of a two-layer Qwen2 lies beside it for the tools that will not load a tokenizer without.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config

VOCABULARY = 32_000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(folder: Path, demo: Path, vocabulary: int = VOCABULARY) -> Path:
    """Train the tokenizer and save it with a tiny config.json; does nothing when the folder has one."""
    if (folder / "config.json").exists():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    by_qwen = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [by_qwen, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(demo), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=32768
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
    # Newer releases write another name for the same class; older ones know only this one.
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    config = Qwen2Config(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        architectures=["Qwen2ForCausalLM"],
    )
    config.save_pretrained(folder)
    return folder


def make_rows(folder: Path, alpaca: Path, num_rows: int) -> dict[str, Path]:
    """The rows as the tools' users would have them: Alpaca JSON, prompt and completion turns, conversations."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{kind}-{num_rows}.{end}" for kind, end in _ENDINGS.items()}
    if all(file.exists() for file in files.values()):
        return files
    rows = list(_numbered(json.loads(alpaca.read_text(encoding="utf-8")), num_rows))
    files["alpaca"].write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    for kind, shaped in (("pairs", _pair), ("messages", _messages)):
        lines = (json.dumps(shaped(row), ensure_ascii=False) + "\n" for row in rows)
        files[kind].write_text("".join(lines), encoding="utf-8")
    return files


_ENDINGS = {"alpaca": "json", "pairs": "jsonl", "messages": "jsonl"}


def _texts(demo: Path) -> Iterator[str]:
    for file in sorted([*demo.glob("*.json"), *demo.glob("*.jsonl")]):
        yield from _strings(file)
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in file.parts:
            yield file.read_text(encoding="utf-8", errors="ignore")


def _strings(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    pending: list[Any] = (
        [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    )
    pending = list(pending.values()) if isinstance(pending, dict) else pending
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _numbered(rows: list[dict[str, str]], num_rows: int) -> Iterator[dict[str, str]]:
    for number, row in enumerate(islice(cycle(rows), num_rows)):
        wanted = {name: row[name] for name in ("instruction", "input", "output")}
        yield wanted | {"instruction": f"{number}. {row['instruction']}"}


def _turns(row: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return {"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}


def _pair(row: dict[str, str]) -> dict[str, Any]:
    asked, answered = _turns(row)
    return {"prompt": [asked], "completion": [answered]}


def _messages(row: dict[str, str]) -> dict[str, Any]:
    return {"messages": list(_turns(row))}
