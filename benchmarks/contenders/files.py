"""The model of five million parameters, its tokenizer, and the rows in each tool's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from contenders.work import Work
from peers.materials import make_rows, make_tokenizer

VOCABULARY = 8192
"""A head of two fifths of the model, nearer to real ones than a vocabulary of 32,000 would be at this size."""
Row = dict[str, Any]
LONGEST_CHARACTERS = 2400
"""Of a row of preferences or feedback: long enough to be real, short enough that all methods take minutes."""
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def make_model(folder: Path, demo: Path) -> Path:
    """A random Llama with the tokenizer of peers/materials.py; does nothing when the folder has one."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    make_tokenizer(folder, demo, VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


def work_of(method: str, model: Path, rows: dict[str, Path], **about: Any) -> Work:
    """A piece of work on a model of this tokenizer's family."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    begin = tokenizer("<|im_start|>user", add_special_tokens=False)["input_ids"]
    pad = tokenizer.pad_token_id
    return Work(method=method, model=model, rows=rows, pad=pad, begin=(begin[0], begin[1]), **about)


def make_all(folder: Path, demo: Path, method: str, num_rows: int) -> dict[str, Path]:
    """The files of the rows of a method, by kind.

    `alpaca`, `pairs` and `messages` of SFT are those of peers/materials.py. Preferences are `trl` (prompt, chosen,
    rejected as messages), `sharegpt` (as LLaMA-Factory has them) and `swift`; feedback alike.
    """
    if method == "sft":
        return make_rows(folder, demo / "alpaca_en_demo.json", num_rows)
    if method == "grpo":
        return {"trl": _prompts(folder / f"prompts-{num_rows}.jsonl", demo, num_rows)}
    kind, forms = ("feedback", FEEDBACK) if method == "kto" else ("preferences", PREFERENCES)
    source = demo / ("kto_en_demo.json" if method == "kto" else "dpo_en_demo.json")
    found = {name: folder / f"{kind}-{name}-{num_rows}.jsonl" for name in forms}
    if not all(file.exists() for file in found.values()):
        rows = list(_some(json.loads(source.read_text(encoding="utf-8")), num_rows))
        for name, shape in forms.items():
            lines: Iterable[str] = (json.dumps(shape(row), ensure_ascii=False) + "\n" for row in rows)
            found[name].write_text("".join(lines), encoding="utf-8")
    return found


def _prompts(file: Path, demo: Path, num_rows: int) -> Path:
    """The questions of the first short rows, each with its answer."""
    rows = json.loads((demo / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    short = [row for row in rows if not row["input"] and len(row["instruction"]) < 300]
    lines = [
        {"prompt": [{"role": "user", "content": row["instruction"]}], "answer": row["output"]}
        for row in short[:num_rows]
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def uniform_rows(folder: Path, num_rows: int) -> dict[str, Path]:
    """Rows that all have the same number of tokens, a few under 256, as Alpaca's."""
    file = folder / f"uniform-{num_rows}.json"
    rows = [
        {"instruction": f"Count the words of page {1000 + number}.", "input": "", "output": " ".join(["the"] * 228)}
        for number in range(num_rows)
    ]
    file.write_text(json.dumps(rows), encoding="utf-8")
    return {"alpaca": file}


def _some(rows: list[Row], num_rows: int) -> Iterator[Row]:
    """Rows with one question, over and over; each with its number in the question."""
    usable = [row for row in map(_plain, rows) if len(row["prompt"]) == 1 and _length(row) < LONGEST_CHARACTERS]
    for number, row in enumerate(islice(cycle(usable), num_rows)):
        asked = {"role": "user", "content": f"{number}. {row['prompt'][0]['content']}"}
        yield {**row, "prompt": [asked]}


def _length(row: Row) -> int:
    return sum(len(each["content"]) for value in row.values() if isinstance(value, list) for each in value)


def _plain(row: Row) -> Row:
    """A row of either demo set as messages."""
    if "label" in row:
        turns = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
        return {"prompt": turns[:-1], "completion": turns[-1:], "label": row["label"]}
    turns = [{"role": ROLES[each["from"]], "content": each["value"]} for each in row["conversations"]]
    answers = {name: [{"role": "assistant", "content": row[name]["value"]}] for name in ("chosen", "rejected")}
    return {"prompt": turns, **answers}


def _sharegpt(row: Row) -> Row:
    asked = [{"from": "human", "value": row["prompt"][0]["content"]}]
    if "label" in row:
        return {"messages": [*row["prompt"], *row["completion"]], "label": row["label"]}
    answers = {name: {"from": "gpt", "value": row[name][0]["content"]} for name in ("chosen", "rejected")}
    return {"conversations": asked, **answers}


def _swift(row: Row) -> Row:
    if "label" in row:
        return {"messages": [*row["prompt"], *row["completion"]], "label": row["label"]}
    return {"messages": [*row["prompt"], *row["chosen"]], "rejected_response": row["rejected"][0]["content"]}


def _flat(row: Row) -> Row:
    """Texts by name, as Axolotl's own strategies read them."""
    names = ("completion",) if "label" in row else ("chosen", "rejected")
    texts = {name: row[name][0]["content"] for name in names}
    return {"prompt": row["prompt"][0]["content"], **texts, **({"label": row["label"]} if "label" in row else {})}


def _whole(row: Row) -> Row:
    """Whole conversations, as Axolotl's chat strategies of ORPO read them."""
    return {name: [*row["prompt"], *row[name]] for name in ("chosen", "rejected")}


def _bradley_terry(row: Row) -> Row:
    """A question and two answers as texts."""
    texts = {name: row[name][0]["content"] for name in ("chosen", "rejected")}
    return {"system": "", "input": row["prompt"][0]["content"], **texts}


FEEDBACK: dict[str, Callable[[Row], Row]] = {"trl": dict, "sharegpt": _sharegpt, "swift": _swift, "flat": _flat}
PREFERENCES = {**FEEDBACK, "whole": _whole, "bradley_terry": _bradley_terry}
