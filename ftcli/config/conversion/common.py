"""What several tools write in the same way: checkpoints, evaluation, precision, uploads, several GPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.table import put
from ftcli.config.conversion.tracker_keys import trackers
from ftcli.core.paths import UNNAMED
from ftcli.methods import get_method
from ftcli.models.templates.chat_template import named_templates

_PUSH = "push_to_hub hub_model_id hub_strategy hub_private_repo hub_model_revision hub_revision hub_always_push"
_KERNELS = {
    "fa2": "flash_attention_2",
    "flash_attn": "flash_attention_2",
    "flash_attn_2": "flash_attention_2",
    "flash_attn_3": "flash_attention_3",
    "flex": "flex_attention",
    "disabled": "eager",
}
_GENERIC = {"out", "output", "outputs", "lora", "sft", "dpo", "full", "qlora-out", "lora-out", "model-out", "finetune"}
_COSTLY = "refused: it runs code from elsewhere; grant it on the command line, with --trust-remote-code"


def each(draft: Draft, names: str) -> list[Occurrence]:
    """Where several keys stand in the file, without those that hold null."""
    return [key for name in names.split() for key in draft.named(name) if key.value is not None]


def trust(draft: Draft) -> None:
    """Remote code is never carried over in a file."""
    for key in each(draft, "trust_remote_code trust_remote_code_model hub_kernels"):
        if key.value in OFF:
            draft.mapped(key, why="refused unless the command line grants it")
        else:
            draft.dropped(key, _COSTLY)


def model(draft: Draft, name: str) -> None:
    """The starting model."""
    for key in each(draft, name):
        if isinstance(key.value, str):
            put(draft, key, "model.name_or_path", key.value)
    if "model.name_or_path" not in draft.settings:
        no_model(draft, f"the file names no model ({name})")


def no_model(draft: Draft, why: str) -> None:
    """The recipe leaves the model open, rather than train another one."""
    draft.put("model.name_or_path", UNNAMED, why)
    draft.waits_for.append(f"model.name_or_path=MODEL, since {why}")


def output(draft: Draft, name: str = "output_dir") -> None:
    """A run has a folder of its own, under a name."""
    for key in each(draft, name):
        parts = [part for part in re.split(r"[/\\]", str(key.value)) if part not in ("", ".", "..")]
        parts = parts[-2:] if parts and parts[-1].lower() in _GENERIC else parts[-1:]
        text = re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-.")
        if text and "run.name" not in draft.settings:
            draft.put("run.name", text)
        after = f"run.name={draft.settings.get('run.name', '')}"
        draft.changed(key, after, "a run is written to runs/NAME/TIME, and never overwrites another")


def uploads(draft: Draft) -> None:
    """Nothing is sent anywhere unless the command line says so."""
    for key in each(draft, _PUSH):
        if key.value in OFF:
            draft.mapped(key, why="nothing is uploaded unless asked")
        elif key.name == "push_to_hub":
            draft.changed(key, "", "uploads are granted on the command line: train.push_to_hub=true --push-to-hub")
        elif not draft.get("push_to_hub"):
            draft.mapped(key, why="nothing is uploaded there either")
        else:
            draft.changed(key, "", f"belongs to the upload: train.{key.name} on the command line, with --push-to-hub")
    trackers(draft)


def precision(draft: Draft) -> None:
    """Types of numbers are those of the hardware, unless a file insists."""
    for key in each(draft, "bf16 fp16 bfloat16 float16 pure_bf16 mixed_precision"):
        half = "float16" if key.name in ("fp16", "float16") else "bfloat16"
        if key.value in OFF or key.value == "auto":
            draft.mapped(key, why="derived from the hardware here, as there" if key.value == "auto" else "off")
        elif key.name in ("pure_bf16", "bfloat16", "float16"):
            if draft.choices["peft"] == "none":
                draft.changed(key, "", "weights that train are held in float32: else hardly any would move")
            else:
                draft.put("model.dtype", half)
                draft.mapped(key, f"model.dtype={half}")
        elif half == "float16":
            draft.changed(key, "", "derived: bfloat16 where the hardware has it, float16 on older GPUs")
        else:
            draft.mapped(key, "", "derived: on where the hardware has bfloat16")
    for key in each(draft, "tf32"):
        if key.value is False:
            draft.put("train.tf32", False)
            draft.mapped(key, "train.tf32=false")
        else:
            draft.mapped(key, "", "derived: on where the hardware has it")


def attention(draft: Draft, names: str) -> None:
    """Attention kernels: flash attention is taken by itself where it is installed and fits."""
    for key in each(draft, names):
        value = str(key.value).lower()
        if key.value is True:
            value = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa"}.get(
                key.name, key.name.replace("_attention", "")
            )
        value = _KERNELS.get(value, value)
        if value in ("auto", *map(str, OFF)) or key.value is False:
            draft.mapped(key, why="chosen by itself")
        elif value in ("sdpa", "eager", "flex_attention"):
            put(draft, key, "model.attn_implementation", value)
        elif "/" in value:
            draft.dropped(key, f"{_COSTLY}, as model.attn_implementation={value}")
        elif value.startswith("flash"):
            draft.changed(key, "model.attn_implementation=auto", "auto takes the newest flash attention that fits")
        else:
            draft.changed(key, "model.attn_implementation=auto", "the kernel is no part of transformers; auto chooses")


def template(draft: Draft, key: Occurrence, renamed: Mapping[str, str]) -> None:
    """A chat template by the tool's name for it: TRL's of that name, or the model's own."""
    name = str(key.value)
    ours = renamed.get(name, name)
    if len(name) > 60 or "{" in name:
        draft.dropped(key, "a template in the file itself; save it as a .jinja file: model.chat_template=FILE.jinja")
    elif ours in ("tokenizer_default", "default", ""):
        draft.mapped(key, why="the model's own template")
    elif ours == "chatml" or ours in named_templates():
        draft.put("model.chat_template", ours)
        draft.mapped(key, f"model.chat_template={ours}")
    else:
        draft.changed(key, "", f"the model's own template, where the tool brings one of its own ({name})")


def sampling(draft: Draft, prefix: str = "") -> None:
    """What samples the answers of a run: vLLM is a matter of what is installed, and of the command line."""
    for key in draft.keys:
        name = key.name.removeprefix(prefix)
        if not name.startswith(("vllm", "use_vllm", "sleep_level", "offload_model", "offload_optimizer")) or key.inside:
            continue
        if key.value in OFF:
            draft.mapped(key, why="off")
        elif not draft.get(f"{prefix}use_vllm"):
            draft.silent(key, "use_vllm is not set, so it does nothing")
        else:
            draft.changed(key, "", "answers are sampled by the trainer, or by vLLM with method.use_vllm=true")


def groups(draft: Draft, processes: Any = 1) -> None:
    """Batches of methods that compare rows: whole groups of answers, and never one row."""
    sampled = draft.has("method.num_generations")
    size = draft.settings.get("train.per_device_train_batch_size", 8)
    steps = draft.settings.get("train.gradient_accumulation_steps", 1)
    compares = sampled or get_method(draft.choices["method"]).min_batch > 1
    if not compares or not all(type(each) is int and each > 0 for each in (size, steps)):
        return
    world = int(processes) if str(processes).isdigit() and int(processes) > 0 else 1
    wanted = draft.settings.get("method.num_generations", 8) if sampled else 2
    if type(wanted) is not int or wanted < 2 or (size > 1 and size * steps % wanted == 0):
        return
    ours = wanted
    draft.put("train.per_device_train_batch_size", ours)
    draft.put("train.gradient_accumulation_steps", max(1, size * steps * world // ours))
    for key in each(draft, "per_device_train_batch_size gradient_accumulation_steps micro_batch_size"):
        setting = "gradient_accumulation_steps" if key.name.startswith("grad") else "per_device_train_batch_size"
        after = f"train.{setting}={draft.settings[f'train.{setting}']}"
        draft.recast(key, after, "as many rows a step, in whole groups on each device")


def rewards(draft: Draft, key: Occurrence) -> None:
    """Rewards by name: two are rules here, the others are code."""
    named = key.value if isinstance(key.value, list) else [key.value]
    rules: dict[str, Any] = {}
    for name in map(str, named):
        if name in ("accuracy", "math", "accuracy_reward", "math_accuracy"):
            rules["number"] = {"weight": 1, "column": "solution"}
        elif name in ("format", "think_format_reward", "format_reward"):
            rules["tags"] = {"weight": 1, "names": ["think", "answer"] if name == "format" else ["think"]}
    if rules and len(rules) == len(named) and draft.has("method.rewards"):
        draft.put("method.rewards", rules)
        draft.changed(key, f"method.rewards={rules}", "rules of ftcli: the last number of the answer, and its tags")
        return
    draft.unsupported.append("its rewards are code; method.reward_functions takes it with --allow-reward-code")
    draft.dropped(key, "refused: it names Python code; method.reward_functions takes it with --allow-reward-code")


def floats(draft: Draft) -> None:
    """Numbers that a file writes as text, and whole ones that it writes with a point."""
    for setting, value in draft.settings.items():
        if isinstance(value, float) and value.is_integer():
            field = draft.field(setting)
            if field is not None and "int" in field.type_text and "float" not in field.type_text:
                draft.settings[setting] = int(value)
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value, re.IGNORECASE):
            field = draft.field(setting)
            if field is not None and "float" in field.type_text:
                draft.settings[setting] = float(value)


def per_set(draft: Draft) -> None:
    """What a mix says of each of its sets, rather than of all rows."""
    mix = draft.settings.get("data.mix")
    if not isinstance(mix, dict):
        return
    for name in ("trained_turns", "columns", "roles", "format", "template"):
        value = draft.settings.pop(f"data.{name}", None)
        if value is not None:
            for settings in mix.values():
                settings.setdefault(name, value)


def weights_type(draft: Draft, names: str) -> None:
    """The type that weights are held in: those that train are held in float32."""
    for key in each(draft, names):
        value = str(key.value)
        if value in ("auto", "null"):
            draft.mapped(key, why="derived from the hardware")
        elif draft.choices["peft"] == "none" and value in ("bfloat16", "float16"):
            why = "weights that train are held in float32 and computed with in bfloat16: else hardly any would move"
            draft.changed(key, "", why)
        else:
            put(draft, key, "model.dtype", value)
