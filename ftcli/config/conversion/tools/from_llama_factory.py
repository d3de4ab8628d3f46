"""LLaMA-Factory: data sets by name, one switch for several adapters, and the defaults of its arguments (0.9.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.config.conversion import common, foreign_yaml, rows, schedule, several_gpus
from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.known import known_sets
from ftcli.config.conversion.rows import Rows
from ftcli.config.conversion.table import put
from ftcli.core.errors import ConfigError

_STAGES = {"pt": "pretrain", "sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}
_LOSSES = {"ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto_pair": "kto"}
_PREFERENCES = ("dpo",)
"""Stages whose pref_loss says the method."""
_BETA = dict.fromkeys(("dpo", "ipo", "kto", "orpo", "simpo"), 0.1)
_PACKED = {"sft": False, "pretrain": True}
_TEMPLATES = {"llama3": "llama3", "qwen3_nothink": "qwen3_instruct_2507", "gemma3": "gemma3", "chatml": "chatml",
              "default": "tokenizer_default", "empty": "tokenizer_default"}  # fmt: skip
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "messages", "system": "system",
            "tools": "tools", "chosen": "chosen", "rejected": "rejected"}  # fmt: skip
_SAME = {("query", "input"), ("prompt", "instruction"), ("response", "output"), ("messages", "conversations"),
         ("messages", "messages")}  # fmt: skip
_PLAIN = ("pretrain",)
"""Methods whose rows are plain text."""
_PREVIEW = "its own templates, kernels and processes have no part in what is learnt"


def convert(draft: Draft) -> None:
    """Decide what its table cannot."""
    _method(draft)
    _adapter(draft)
    common.trust(draft)
    common.model(draft, "model_name_or_path" if "model_name_or_path" in draft.file.data else "model")
    _data(draft)
    common.output(draft)
    common.uploads(draft)
    common.precision(draft)
    common.attention(draft, "flash_attn")
    schedule.checkpointing(draft)
    _held_out(draft)
    schedule.cadence(draft, bool(draft.get("val_size") or draft.get("eval_dataset")))
    several_gpus.sharding(draft)
    several_gpus.ddp(draft)
    _preview(draft)
    _rest(draft)
    schedule.optimiser(draft, "optim")
    schedule.length_of_run(draft)


def _method(draft: Draft) -> None:
    stage, loss = str(draft.get("stage", "sft")), str(draft.get("pref_loss", "sigmoid"))
    method = _LOSSES.get(loss, "dpo") if stage in _PREFERENCES else _STAGES.get(stage)
    if method is None:
        draft.unsupported.append(f"stage {stage} is no method of ftcli; this is the rest of it, as method=sft")
        draft.dropped("stage", "ftcli has method=pretrain, sft, dpo, kto, reward and ppo")
        method = "sft"
    draft.choose("method", method)
    draft.mapped("stage", f"method={method}")
    for key in common.each(draft, "pref_loss"):
        if stage not in _PREFERENCES:
            draft.silent(key, f"stage {stage} has no preferences, so it does nothing")
        elif loss in ("sigmoid", "hinge"):
            draft.put("method.loss_type", loss)
            draft.mapped(key, f"method.loss_type={loss}")
        else:
            draft.mapped(key, f"method={method}")
    for key in common.each(draft, "pref_beta"):
        if draft.has("method.beta"):
            put(draft, key, "method.beta", key.value)
    ours = "use_dft_loss use_asft_loss use_eaft_loss mixture_of_depths use_llama_pro"
    for key in common.each(draft, ours):
        if key.value not in OFF:
            draft.unsupported.append(f"{key.name} changes the loss or the layers in a way that ftcli does not have")


def _adapter(draft: Draft) -> None:
    tuner = str(draft.get("finetuning_type", "lora" if "peft_config" not in draft.file.data else "full"))
    preview = draft.get("peft_config", {})
    if isinstance(preview, dict) and preview.get("name"):
        tuner = str(preview["name"])
    elif "model_class" in draft.file.data and "finetuning_type" not in draft.file.data:
        tuner = "full"
    peft = {"full": "none", "lora": "lora", "freeze": "freeze", "oft": "oft"}.get(tuner)
    if peft is None:
        draft.unsupported.append(f"finetuning_type {tuner} is no adapter of ftcli")
        peft = "lora"
    for name, other in (("use_dora", "dora"), ("use_rslora", "rslora"), ("pissa_init", "pissa"),
                        ("loraplus_lr_ratio", "loraplus")):  # fmt: skip
        if peft == "lora" and draft.get(name):
            peft = other
            draft.mapped(name, f"peft={other}") if name != "loraplus_lr_ratio" else None
    draft.choose("peft", peft)
    draft.mapped("finetuning_type", f"peft={peft}")
    bits, kind = draft.get("quantization_bit"), str(draft.get("quantization_type", "nf4"))
    if bits in (4, 8):
        double = draft.get("double_quantization", True) not in (False, "false")
        name = "int8" if bits == 8 else "fp4" if kind == "fp4" else "nf4_double" if double else "nf4"
        draft.choose("quantisation", name)
        for key in common.each(draft, "quantization_bit quantization_type double_quantization"):
            draft.mapped(key, f"quantisation={name}")
    elif bits is not None:
        draft.unsupported.append(f"{bits} bits are no quantisation of ftcli")
    for key in common.each(draft, "adapter_name_or_path"):
        draft.put("model.name_or_path", key.value)
        draft.changed(key, f"model.name_or_path={key.value}", "an adapter's folder is a model here: its base is found")
        draft.changed("model_name_or_path", "", "the adapter's folder names its base")
    for key in [k for k in draft.keys if k.name.startswith("peft_config.")]:
        _preview_adapter(draft, key)


def _preview_adapter(draft: Draft, key: Occurrence) -> None:
    name = key.name.rpartition(".")[2]
    if name == "name":
        draft.mapped(key, f"peft={draft.choices['peft']}")
    elif name == "target_modules":
        put(draft, key, "peft.target_modules", "all-linear" if key.value in ("all", ["all"]) else key.value)
    elif draft.has(f"peft.{name}"):
        put(draft, key, f"peft.{name}", key.value)
    elif name == "adapter_name_or_path" and key.value is not None:
        draft.dropped(key, "the adapter to go on from: model.name_or_path=FOLDER")


def _data(draft: Draft) -> None:
    names = set_names(draft.get("dataset", draft.get("train_dataset")))
    info = registered(draft)
    if any(name.startswith("mllm_") for name in names):
        draft.unsupported.append("it trains on images or sound too, and ftcli on text alone")
    sets = [_set(draft, name, info) for name in names if not name.startswith("mllm_")]
    if draft.get("max_samples"):
        rows_of = draft.get("max_samples")
        draft.put("data.max_rows", rows_of)
        draft.mapped("max_samples", f"data.max_rows={rows_of}", "the first ones of each set")
    if sets:
        order = {"concat": "concatenate"}.get(str(draft.get("mix_strategy", "concat")), "interleave")
        shares = draft.get("interleave_probs")
        if order == "interleave" and shares is not None:
            for each, share in zip(sets, str(shares).split(","), strict=False):
                each.share_of_mix = float(share)
            draft.mapped("interleave_probs", "data.mix.NAME.share_of_mix")
        rows.write(draft, sets, "interleave" if order == "concatenate" else order)
        draft.mapped("dataset", "data.path" if len(sets) == 1 else "data.mix")
        draft.mapped("train_dataset", "data.path" if len(sets) == 1 else "data.mix")
        draft.mapped("mix_strategy", "data.mix_order=interleave", "all rows of all sets, drawn in any order there too")
    else:
        rows.missing(draft)


def set_names(value: Any) -> list[str]:
    """The data sets that a key names, as a list or with commas between them."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return [each.strip() for each in str(value).split(",") if each.strip()] if value is not None else []


def registered(draft: Draft) -> dict[str, Any]:
    """The user's own dataset_info.json, where it lies beside the file or above it."""
    folder = Path(str(draft.get("dataset_dir", "data")))
    draft.changed("dataset_dir", "", "data.path names the files themselves; dataset_info.json is read where it lies")
    if folder.is_absolute():  # a stranger's file says where to look only near itself
        return {}
    here = draft.file.path.resolve().parent
    for base in (here, *here.parents[:2], Path.cwd()):
        path = base / folder / "dataset_info.json"
        if path.is_file():
            try:
                return foreign_yaml.load(path).document.data
            except ConfigError:
                return {}
    return {}


def _set(draft: Draft, name: str, info: dict[str, Any]) -> Rows:
    own = info.get(name)
    if isinstance(own, dict):
        place = own.get("hf_hub_url") or own.get("file_name") or own.get("path") or name
        entry = {**own, "path": str(place)}
        if "file_name" in own and "hf_hub_url" not in own:
            entry["path"] = str(Path(str(draft.get("dataset_dir", "data"))) / str(own["file_name"]))
        if own.get("script_url"):
            draft.unsupported.append(f"the data set {name} is a script that would run; convert it to JSON lines")
        return _rows(draft, entry)
    known = known_sets("llama_factory").get(name)
    if known is not None:
        return _rows(draft, known)
    if name == "data/v1_sft_demo.yaml":
        demo = [known_sets("llama_factory")[each]["path"] for each in ("identity", "alpaca_en_demo")]
        return Rows(path=demo)
    if "/" in name and not rows.is_local(name):
        return Rows(path=name)
    path = name if rows.is_local(name) else f"{draft.get('dataset_dir', 'data')}/{name}.json"
    return Rows(path=path)


def _rows(draft: Draft, entry: dict[str, Any]) -> Rows:
    found = Rows(path=entry["path"], subset=entry.get("subset"), split=entry.get("split"))
    columns = entry.get("columns")
    # Plain text has the column of its prompt alone, and stands in ours as text.
    ours = {**_COLUMNS, "prompt": "text"} if draft.choices["method"] in _PLAIN else _COLUMNS
    if isinstance(columns, dict):
        named = {
            ours[name]: theirs
            for name, theirs in columns.items()
            if name in ours and ours[name] != theirs and (name, theirs) not in _SAME and theirs is not None
        }
        found.columns = named or None
    return found


def _held_out(draft: Draft) -> None:
    for key in common.each(draft, "val_size"):
        value = key.value
        if value in OFF:
            draft.mapped(key, why="nothing is held out")
        elif isinstance(value, (int, float)) and value < 1:
            put(draft, key, "data.eval_share", value)
        else:
            draft.put("data.eval_share", 0.1)
            draft.changed(key, "data.eval_share=0.1", f"a share of the rows here, a number of them there ({value})")
    for key in common.each(draft, "eval_dataset"):
        info = registered(draft)
        found = [_set(draft, name, info).path for name in set_names(key.value)]
        draft.put("data.eval_path", found[0] if len(found) == 1 else found)
        draft.mapped(key, "data.eval_path")


def _preview(draft: Draft) -> None:
    """Keys of the 1.0 previews."""
    for key in common.each(draft, "model_class"):
        if key.value == "llm":
            draft.mapped(key, why="a model that reads and writes text")
        else:
            draft.dropped(key, "ftcli trains on text alone")
    for key in [k for k in draft.keys if k.name.partition(".")[0] in ("dist_config", "init_config", "kernel_config")]:
        if key.inside or key.value is None:
            continue
        if key.name == "dist_config.name":
            profile = {"fsdp2": "fsdp", "deepspeed": "zero3", "ddp": "multi_gpu"}.get(str(key.value), "auto")
            draft.choose("hardware", profile)
            draft.mapped(key, f"hardware={profile}")
        else:
            draft.changed(key, "", _PREVIEW)
    for key in common.each(draft, "sample_backend max_new_tokens"):
        draft.changed(key, "", "a sample is asked for after the run: ftcli chat or ftcli generate")
    for key in common.each(draft, "batching_strategy"):
        if key.value == "normal":
            draft.mapped(key, why="batches of a number of rows")


def _rest(draft: Draft) -> None:
    for key in common.each(draft, "template"):
        common.template(draft, key, _TEMPLATES)
    for key in common.each(draft, "lora_target oft_target"):
        value = key.value
        if value in ("all", ["all"]):
            put(draft, key, "peft.target_modules", "all-linear")
        elif isinstance(value, str):
            put(draft, key, "peft.target_modules", [each.strip() for each in value.split(",")])
    for key in common.each(draft, "disable_gradient_checkpointing"):
        put(draft, key, "train.gradient_checkpointing", not key.value)
    for key in common.each(draft, "packing neat_packing use_packed_sequences"):
        if draft.choices["method"] in ("sft", "pretrain"):
            draft.put("method.packing", bool(key.value) or draft.settings.get("method.packing", False))
            if key.name == "neat_packing" or not key.value:
                draft.mapped(key, f"method.packing={str(bool(key.value)).lower()}")
            else:
                draft.changed(key, "method.packing=true", "rows of a block do not see each other here; there they do")
    for key in common.each(draft, "resize_vocab"):
        if key.value:
            draft.changed(key, "", "model.new_tokens adds tokens, and resizes by itself")
    for key in common.each(draft, "save_only_model"):
        if key.value in OFF:
            draft.mapped(key, why="every checkpoint can be resumed")


def defaults(draft: Draft) -> None:
    """Write out the defaults of the tool that differ from ours."""
    why = "LLaMA-Factory's default"
    rank = draft.settings.get("peft.r", 8)
    draft.default("data.max_length_tokens", 2048, f"{why} (cutoff_len)")
    draft.default("data.overflow", "truncate_right", "LLaMA-Factory cuts longer rows off")
    draft.default("train.learning_rate", 5e-5, why)
    if not schedule.by_steps(draft):
        draft.default("train.num_train_epochs", 3.0, why)
    draft.default("train.per_device_train_batch_size", 8, why)
    draft.default("train.gradient_accumulation_steps", 1, why)
    draft.default("train.lr_scheduler_type", "linear", why)
    draft.default("train.warmup_steps", 0, why)
    draft.default("train.gradient_checkpointing", True, f"{why} (disable_gradient_checkpointing)")
    if draft.choices["peft"] in ("lora", "dora", "rslora", "pissa", "loraplus"):
        draft.default("peft.r", 8, f"{why} (lora_rank)")
        draft.default("peft.lora_alpha", 2 * rank if isinstance(rank, int) else 16, f"{why}: twice the rank")
        draft.default("peft.lora_dropout", 0.0, why)
        draft.default("peft.target_modules", "all-linear", f"{why} (lora_target: all)")
    method = draft.choices["method"]
    if method in _BETA:
        draft.default("method.beta", _BETA[method], f"{why} (pref_beta)")
        draft.default("method.gamma", 0.5, f"{why} (simpo_gamma)")
    if method in _PACKED:
        draft.default("method.packing", _PACKED[method], why)
    common.groups(draft)
