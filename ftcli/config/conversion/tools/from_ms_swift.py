"""ms-swift: sets with a count behind #, several adapters in one switch, and the defaults of its arguments (4.6.0)."""

from __future__ import annotations

import math
import re
from typing import Any

from ftcli.config.conversion import common, rows, schedule, several_gpus
from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.known import known_sets
from ftcli.config.conversion.rows import Rows
from ftcli.config.conversion.table import put
from ftcli.config.conversion.tools import ms_swift_arguments

_RLHF = {"dpo": "dpo", "kto": "kto", "cpo": "cpo", "simpo": "simpo", "orpo": "orpo", "ppo": "ppo", "grpo": "grpo",
         "rm": "reward", "gkd": "distillation"}  # fmt: skip
_TUNERS = {"lora": "lora", "full": "none", "adalora": "adalora", "ia3": "ia3", "vera": "vera", "dora": "dora"}
_HUB = {"LLM-Research/": "meta-llama/", "AI-ModelScope/gemma": "google/gemma", "deepseek-ai/": "deepseek-ai/",
        "ZhipuAI/": "zai-org/", "iic/": "Alibaba-NLP/"}  # fmt: skip
_MULTIMODAL = ("vl", "omni", "audio", "vision", "ocr", "tts", "llava", "internvl", "ovis", "minicpm-v", "video")
_OTHER_TASKS = ("seq_cls", "embedding", "reranker", "generative_reranker", "decision")
_LORA: tuple[tuple[str, str, Any], ...] = (
    ("r", "lora_rank", 8),
    ("lora_alpha", "lora_alpha", 32),
    ("lora_dropout", "lora_dropout", 0.05),
    ("target_modules", "target_modules", "all-linear"),
)
"""Of an adapter: our setting, their key, its default."""
_BETA = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "cpo": 0.1, "simpo": 2.0}
_SCORES = ("reward",)
"""Methods whose models score a text, as ms-swift's task_type seq_cls does."""
_SPLITS = ("pretrain",)
"""Methods that split longer rows, as ms-swift does."""
_DEFAULTS = {"rlhf": "dpo"}
"""Of `swift rlhf`, without rlhf_type."""
_TEMPLATES = {"gemma3_text": "gemma3", "qwen3_nothinking": "qwen3_instruct_2507"}
"""Templates that TRL ships under another name."""
_CODE = "external_plugins custom_register_path custom_dataset_info callbacks plugin local_repo_path"


def convert(draft: Draft) -> None:
    """Decide what its table cannot."""
    if ms_swift_arguments.is_dump(draft):
        ms_swift_arguments.set_aside(draft)
    _method(draft)
    _adapter(draft)
    common.trust(draft)
    _model(draft)
    held_out = _data(draft)
    common.output(draft)
    common.uploads(draft)
    common.precision(draft)
    common.attention(draft, "attn_impl")
    schedule.checkpointing(draft, default=True)
    schedule.cadence(draft, held_out)
    several_gpus.sharding(draft)
    several_gpus.ddp(draft)
    _rest(draft)
    schedule.optimiser(draft, "optim")
    schedule.length_of_run(draft)
    common.weights_type(draft, "torch_dtype")


def _method(draft: Draft) -> None:
    command = draft.file.command[-1] if draft.file.command else ""
    kind = draft.get("rlhf_type", _DEFAULTS.get(command))
    plain = draft.get("use_chat_template") is False and draft.get("loss_scale") == "all"  # as `swift pt` sets both
    method = _RLHF.get(str(kind)) if kind is not None else "pretrain" if command == "pt" or plain else "sft"
    if method is None:
        draft.unsupported.append(f"rlhf_type {kind} is no method of ftcli; this is the rest of it, as method=sft")
        draft.dropped("rlhf_type", f"ftcli has {', '.join(f'method={each}' for each in _RLHF.values())}")
        method = "sft"
    draft.choose("method", method)
    draft.mapped("rlhf_type", f"method={method}")
    task = draft.get("task_type")
    if task in _OTHER_TASKS and method not in _SCORES:
        draft.unsupported.append(f"task_type {task} is none of ftcli's")
        draft.dropped("task_type", "ftcli trains causal language models and reward models")
    for key in common.each(draft, "reward_funcs"):
        common.rewards(draft, key)


def _adapter(draft: Draft) -> None:
    name = (
        "tuner_type"
        if "tuner_type" in draft.file.data
        else "train_type"
        if "train_type" in draft.file.data
        else "sft_type"
    )
    tuner = str(draft.get(name, "lora"))
    peft = _TUNERS.get(tuner)
    if peft is None:
        draft.unsupported.append(f"{name} {tuner} is none of ftcli's")
        draft.dropped(name, "ftcli list peft shows the adapters there are")
        peft = "lora"
    for switch, other in (("use_dora", "dora"), ("use_rslora", "rslora"), ("lorap_lr_ratio", "loraplus")):
        if peft == "lora" and draft.get(switch):
            peft = other
    if str(draft.get("init_weights", "")).startswith("pissa") and peft == "lora":
        peft = "pissa"
        draft.mapped("init_weights", "peft=pissa")
    draft.choose("peft", peft)
    draft.mapped(name, f"peft={peft}")
    bits, how = draft.get("quant_bits"), str(draft.get("quant_method", "bnb"))
    if bits in (4, 8) and how == "bnb" and peft != "none":
        kind = str(draft.get("bnb_4bit_quant_type", "nf4"))
        double = draft.get("bnb_4bit_use_double_quant", True)
        choice = "int8" if bits == 8 else "fp4" if kind == "fp4" else "nf4_double" if double else "nf4"
        draft.choose("quantisation", choice)
        for key in common.each(draft, "quant_bits quant_method bnb_4bit_quant_type bnb_4bit_use_double_quant"):
            draft.mapped(key, f"quantisation={choice}")
    elif bits is not None:
        draft.unsupported.append(f"quantisation by {how} in {bits} bits is none of ftcli's")
    for key in common.each(draft, "bnb_4bit_compute_dtype"):
        if "quantisation" in draft.choices:
            put(draft, key, "quantisation.compute_dtype", key.value)
    for key in common.each(draft, "target_modules"):
        value = key.value
        put(draft, key, "peft.target_modules", "all-linear" if value in ("all-linear", ["all-linear"]) else
            value if isinstance(value, list) else [str(value)])  # fmt: skip
    for key in common.each(draft, "init_weights"):
        if key.value in (True, "true", "gaussian"):
            put(draft, key, "peft.init_lora_weights", key.value)
    for key in common.each(draft, "modules_to_save"):
        put(draft, key, "peft.modules_to_save", key.value if isinstance(key.value, list) else [str(key.value)])


def _model(draft: Draft) -> None:
    name = "model" if "model" in draft.file.data else "model_id_or_path"
    for key in common.each(draft, f"{name} model_id_or_path"):
        found = _hub(str(key.value))
        draft.put("model.name_or_path", found)
        if found == str(key.value):
            draft.mapped(key, f"model.name_or_path={found}")
        else:
            draft.changed(key, f"model.name_or_path={found}", "its name on the Hugging Face hub")
        if any(
            each in found.lower().replace("/", "-").split("-") or f"-{each}" in found.lower() for each in _MULTIMODAL
        ):
            draft.unsupported.append("its model reads images, sound or video, and ftcli trains on text alone")
    for key in _filled(draft, "adapters resume_from_adapter"):
        value = key.value[0] if isinstance(key.value, list) else key.value
        draft.put("model.name_or_path", str(value))
        draft.changed(key, f"model.name_or_path={value}", "an adapter's folder is a model here: its base is found")
    if "model.name_or_path" not in draft.settings:
        common.no_model(draft, "the command names no model")
    for key in _filled(draft, "teacher_model reward_model"):
        value = key.value[0] if isinstance(key.value, list) else key.value
        put(draft, key, f"method.{key.name}", _hub(str(value)))
    for key in common.each(draft, "model_author model_name"):
        draft.changed(key, "", "names that ms-swift writes into its self-cognition rows; write them into the rows")
    for key in common.each(draft, "new_special_tokens"):
        value = key.value if isinstance(key.value, list) else [key.value]
        if not any(rows.is_local(str(each)) for each in value):
            draft.put("model.new_tokens", [str(each) for each in value])
            draft.mapped(key, "model.new_tokens")


def _filled(draft: Draft, names: str) -> list[Occurrence]:
    """Where several keys stand in the file with a value: an args.json writes those that nobody set, too."""
    return [key for key in common.each(draft, names) if key.value not in OFF]


def _hub(name: str) -> str:
    for theirs, ours in _HUB.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _data(draft: Draft) -> bool:
    value = draft.get("dataset", draft.get("train_dataset"))
    texts = value if isinstance(value, list) else [value] if value is not None else []
    sets = [_set(str(text)) for text in texts]
    shares = draft.get("interleave_prob")
    if isinstance(shares, list) and len(shares) == len(sets):
        for each, share in zip(sets, shares, strict=True):
            each.share_of_mix = share
        draft.mapped("interleave_prob", "data.mix.NAME.share_of_mix")
    if sets:
        columns = draft.get("columns")
        if isinstance(columns, dict):
            for each in sets:
                each.columns = {str(ours): str(theirs) for theirs, ours in columns.items()}
            for key in [k for k in draft.keys if k.name.startswith("columns")]:
                draft.mapped(key, "data.columns")
        if draft.get("streaming") and (len(sets) > 1 or any(each.rows for each in sets)):
            draft.changed(
                "streaming", "data.streaming=false", "counts of rows need the whole set: it is stored, not streamed"
            )
        rows.write(draft, sets, "interleave")
        counted = any(each.rows for each in sets)
        for key in common.each(draft, "dataset"):
            if counted or any(_set(str(t)).path != str(t) for t in texts):
                draft.changed(key, "data.mix", "so many rows, drawn by seed; ids are those of the Hugging Face hub")
            else:
                draft.mapped(key, "data.path")
    else:
        rows.missing(draft)
    for key in _filled(draft, "val_dataset"):
        texts = key.value if isinstance(key.value, list) else [key.value]
        paths = [str(_set(str(text)).path) for text in texts]
        draft.put("data.eval_path", paths[0] if len(paths) == 1 else paths)
        draft.mapped(key, "data.eval_path")
    share = draft.get("split_dataset_ratio")
    for key in common.each(draft, "split_dataset_ratio"):
        if share in OFF or "data.eval_path" in draft.settings:
            draft.mapped(key, why="nothing of the rows is held out")
        else:
            put(draft, key, "data.eval_share", share)
    return bool(share) or "data.eval_path" in draft.settings


def _set(text: str) -> Rows:
    """`hub::id:subset1/subset2#rows` as rows."""
    text = re.sub(r"^(HF|MS|ms|hf)::", "", text.strip("'\""))
    text, _, count = text.partition("#") if "://" not in text else (text, "", "")
    path, colon, subset = text.partition(":") if "://" not in text else (text, "", "")
    found = Rows(path=str(known_sets("ms_swift").get(path, path)))
    if colon and subset and subset not in ("default", "all"):
        found.subset = subset.partition("/")[0]
    if count.isdigit() and int(count) > 0:
        found.rows = int(count)
    return found


def _rest(draft: Draft) -> None:
    for key in common.each(draft, "NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MASTER_PORT CUDA_VISIBLE_DEVICES "
                                  "nproc_per_node ASCEND_RT_VISIBLE_DEVICES"):  # fmt: skip
        if key.name == "NPROC_PER_NODE" and key.value not in (1, "1") and "hardware" not in draft.choices:
            draft.changed(key, "", f"{key.value} processes there: hardware=multi_gpu starts one on each GPU there is")
        else:
            draft.changed(
                key, f"hardware={draft.choices.get('hardware', 'auto')}", "which GPUs is a matter of the shell"
            )
    for key in [k for k in draft.keys if k.name.isupper() and k.path not in draft.entries]:
        draft.changed(key, "", "a variable of the shell: set it before ftcli train where it is still wanted")
    for key in common.each(draft, "lora_rank"):
        if draft.choices["peft"] != "none":
            put(draft, key, "peft.r", key.value)
    for key in common.each(draft, "max_length"):
        put(draft, key, "data.max_length_tokens", key.value)
    for key in common.each(draft, "loss_type"):
        value = key.value[0] if isinstance(key.value, list) and len(key.value) == 1 else key.value
        put(draft, key, "method.loss_type", value)
    for key in common.each(draft, "packing"):
        put(draft, key, "method.packing", key.value)
    for key in common.each(draft, "report_to"):
        draft.mapped(key, "", "every run keeps its own metrics.jsonl")
    for key in common.each(draft, "template"):
        common.template(draft, key, _TEMPLATES)
    for key in common.each(draft, "system"):
        draft.changed(key, "", "a system turn is part of its row")
    for key in common.each(draft, "enable_thinking"):
        draft.put("model.chat_template_kwargs", {"enable_thinking": key.value})
        draft.mapped(key, "model.chat_template_kwargs.enable_thinking")
    for key in common.each(draft, _CODE):
        draft.dropped(key, "refused: it names Python code to be run")
    common.sampling(draft)
    for key in common.each(draft, "steps_per_generation importance_sampling_level overlong_filter dynamic_sample"):
        ours = "mask_truncated_completions" if key.name == "overlong_filter" else key.name
        if draft.has(f"method.{ours}"):
            put(draft, key, f"method.{ours}", key.value)
    for key in common.each(draft, "save_only_model"):
        if key.value:
            draft.changed(key, "", "every checkpoint can be resumed; train.save_total_limit bounds them")
    for key in common.each(draft, "freeze_vit freeze_aligner freeze_llm max_pixels"):
        if key.value in OFF or not draft.unsupported:
            draft.mapped(key, "", "a model of text has no such part")
    for key in common.each(draft, "max_completion_length"):
        if not draft.has("method.max_completion_length"):
            draft.silent(key, "no answers are sampled, so it does nothing")


def defaults(draft: Draft) -> None:
    """Write out the defaults of the tool that differ from ours."""
    why, peft = "ms-swift's default", draft.choices["peft"]
    size = draft.get("per_device_train_batch_size", 1)
    if not draft.get("learning_rate"):
        draft.default("train.learning_rate", 1e-5 if peft == "none" else 1e-4, why)
    for name, value in (("num_train_epochs", 3.0), ("per_device_train_batch_size", 1), ("lr_scheduler_type", "cosine"),
                        ("weight_decay", 0.1), ("adam_beta2", 0.95)):  # fmt: skip
        if draft.get(name) is None and not (name == "num_train_epochs" and schedule.by_steps(draft)):
            draft.default(f"train.{name}", value, why)
    if draft.get("gradient_accumulation_steps") is None:
        nproc = draft.get("NPROC_PER_NODE", 1)
        world = int(nproc) if str(nproc).isdigit() else 1
        steps = max(1, math.ceil(16 / size / world)) if isinstance(size, int) and size > 0 else 1
        draft.default("train.gradient_accumulation_steps", steps, f"{why}: 16 rows a step")
    if draft.get("warmup_ratio") is None and draft.get("warmup_steps") is None:
        draft.default("train.warmup_steps", 0, why)
    if draft.get("truncation_strategy") is None and draft.choices["method"] not in _SPLITS:
        draft.default("data.overflow", "drop", f"{why} (truncation_strategy)")
    if peft in ("lora", "dora", "rslora", "pissa", "loraplus"):
        for name, theirs, value in _LORA:
            if draft.get(theirs) is None:
                draft.default(f"peft.{name}", value, why)
    if draft.get("packing") is None:
        draft.default("method.packing", False, why)
    common.groups(draft, draft.get("NPROC_PER_NODE", 1))
    if draft.choices["method"] in _BETA:
        draft.default("method.beta", _BETA[draft.choices["method"]], why)
