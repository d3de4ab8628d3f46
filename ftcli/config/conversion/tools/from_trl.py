"""TRL and the alignment handbook: mixtures of hub sets, and the defaults of TRL's own configurations (1.16)."""

from __future__ import annotations

from typing import Any

from ftcli.config.conversion import common, rows, schedule, several_gpus
from ftcli.config.conversion.draft import OFF, Draft
from ftcli.config.conversion.rows import Rows
from ftcli.config.conversion.table import put

_PROGRAMS = {"sft": "sft", "dpo": "dpo", "kto": "kto", "grpo": "grpo", "rloo": "rloo", "reward": "reward",
             "orpo": "orpo", "cpo": "cpo"}  # fmt: skip
_OWN_METHODS = ("ipo", "simpo")
_LOSS_IS_METHOD = ("dpo", "cpo")
_BETA = dict.fromkeys(("dpo", "ipo", "kto", "orpo", "cpo", "simpo"), 0.1)
_PREFERENCE_COLUMNS = ("chosen", "rejected")


_ANSWERS_ALONE = {
    "assistant_only_loss": ("messages", "every token of messages is trained, prompts too,"),
    "completion_only_loss": ("prompts and completions", "prompts are trained too"),
}
"""Switches of TRL: the rows they are for, and what happens where they are off."""
_IMITATES = ("sft",)
"""Methods that have these switches."""


def convert(draft: Draft) -> None:
    """Decide what its table cannot."""
    _method(draft)
    _adapter(draft)
    common.trust(draft)
    common.model(draft, "model_name_or_path")
    held_out = _data(draft)
    common.output(draft)
    common.uploads(draft)
    common.precision(draft)
    common.attention(draft, "attn_implementation")
    schedule.checkpointing(draft, default=True)
    schedule.cadence(draft, held_out)
    several_gpus.sharding(draft)
    several_gpus.ddp(draft)
    schedule.optimiser(draft, "optim")
    schedule.length_of_run(draft)
    common.weights_type(draft, "torch_dtype dtype")
    _rest(draft)


def _method(draft: Draft) -> None:
    """The method, which a file of TRL does not name: its program, its folder, or its keys say it."""
    data = draft.file.data
    columns = " ".join(str(item.get("columns")) for item in _mixture(draft))
    loss = str(data.get("loss_type"))
    if draft.file.command:
        method = _PROGRAMS.get(draft.file.command[-1], "sft")
    elif any(key in data for key in ("num_generations", "reward_funcs", "max_completion_length")):
        method = "grpo"
    elif "desirable_weight" in data:
        method = "kto"
    elif "center_rewards_coefficient" in data:
        method = "reward"
    elif "cpo_alpha" in data or "simpo_gamma" in data:
        method = "simpo" if "simpo_gamma" in data or loss in _OWN_METHODS else "cpo"
    elif named := _named_by_folder(draft, ("orpo",)):
        method = named
    elif {"beta", "max_prompt_length"} & set(data) or all(each in columns for each in _PREFERENCE_COLUMNS):
        method = "dpo"
    else:
        method = _named_by_folder(draft, ("dpo",)) or "sft"
    if method in _LOSS_IS_METHOD and loss in _OWN_METHODS:
        method = loss
        draft.mapped("loss_type", f"method={method}")
    draft.choose("method", method)


def _named_by_folder(draft: Draft, methods: tuple[str, ...]) -> str | None:
    """A method that the folders of a file or the name of its output tell: the handbook says it nowhere else."""
    words = {*draft.file.path.parts[-3:], *str(draft.get("output_dir", "")).split("-")}
    return next((method for method in methods if method in words), None)


def _adapter(draft: Draft) -> None:
    use = draft.get("use_peft")
    named = any(key in draft.file.data for key in ("lora_r", "lora_alpha", "lora_target_modules"))
    peft = "lora" if use or (use is None and named and draft.tool != "trl") else "none"
    if peft == "lora" and draft.get("use_dora"):
        peft = "dora"
    elif peft == "lora" and draft.get("use_rslora"):
        peft = "rslora"
    draft.choose("peft", peft)
    draft.mapped("use_peft", f"peft={peft}")
    bits = "nf4" if draft.get("load_in_4bit") else "int8" if draft.get("load_in_8bit") else None
    if bits == "nf4":
        kind, nested = str(draft.get("bnb_4bit_quant_type", "nf4")), draft.get("use_bnb_nested_quant")
        bits = "fp4" if kind == "fp4" else "nf4_double" if nested else "nf4"
    if bits and peft != "none":
        draft.choose("quantisation", bits)
        for key in common.each(draft, "load_in_4bit load_in_8bit bnb_4bit_quant_type use_bnb_nested_quant"):
            if key.value not in OFF:
                draft.mapped(key, f"quantisation={bits}")
    elif bits:
        for key in common.each(draft, "load_in_4bit load_in_8bit"):
            if key.value:
                draft.dropped(key, "a quantised base trains only through an adapter")


def _mixture(draft: Draft) -> list[dict[str, Any]]:
    mixture = draft.get("dataset_mixture")
    found = mixture.get("datasets") if isinstance(mixture, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _data(draft: Draft) -> bool:
    """The rows; whether some are held out."""
    items = _mixture(draft)
    if items:
        return _mixed(draft, items)
    mixer = draft.get("dataset_mixer")
    if isinstance(mixer, dict):
        sets = [Rows(path=name, share_of_set=share if share != 1.0 else None) for name, share in mixer.items()]
        rows.write(draft, sets)
        for key in [k for k in draft.keys if k.name.startswith("dataset_mixer.")]:
            draft.mapped(key, "data.mix.NAME.share_of_set")
        for key in common.each(draft, "dataset_splits"):
            draft.changed(key, "", "data.mix.NAME.split; a test split is data.eval_path")
        return False
    name = draft.get("dataset_name")
    if not isinstance(name, str):
        rows.missing(draft)
        return False
    found = Rows(path=name, subset=draft.get("dataset_config"))
    if draft.get("dataset_train_split"):
        change = rows.sliced(found, str(draft.get("dataset_train_split")))
        if change:
            draft.changed("dataset_train_split", f"split={found.split}", change)
        else:
            draft.mapped("dataset_train_split", f"data.split={found.split}")
    rows.write(draft, [found])
    draft.mapped("dataset_name", f"data.path={name}")
    draft.mapped("dataset_config", f"data.subset={draft.get('dataset_config')}")
    measures = str(draft.get("eval_strategy", "no")) not in ("no", "False", "false")
    if measures:
        test = draft.get("dataset_test_split", "test")
        draft.put("data.eval_share", 0.05, f"the split {test} there; a share of the rows here")
        draft.changed("dataset_test_split", "data.eval_share=0.05", "rows of the training split are held out")
    else:
        for key in common.each(draft, "dataset_test_split"):
            draft.silent(key, "eval_strategy is no, so nothing is measured")
    return measures


def _mixed(draft: Draft, items: list[dict[str, Any]]) -> bool:
    held_out = draft.get("dataset_mixture.test_split_size")
    weights = [item.get("weight", 1.0) for item in items]
    sets = []
    for item, weight in zip(items, weights, strict=True):
        found = Rows(path=str(item.get("id")))
        found.subset = str(item["config"]) if item.get("config") not in (None, "default") else None
        if item.get("split"):
            rows.sliced(found, str(item["split"]))
        if isinstance(weight, (int, float)) and weight != 1:
            found.share_of_set = float(weight)
        sets.append(found)
    rows.write(draft, sets, "interleave")
    for key in [
        k for k in draft.keys if k.name.startswith("dataset_mixture.") and k.value is not None and not k.inside
    ]:
        name = key.name.rpartition(".")[2]
        if name in ("id", "config", "split", "weight"):
            draft.mapped(key, {"id": "data.path", "config": "data.subset", "split": "data.split",
                               "weight": "data.mix.NAME.share_of_set"}[name])  # fmt: skip
        elif name == "columns":
            draft.mapped(key, "", "recognised by their names; columns that are not read are named by ftcli check")
        elif name == "seed":
            draft.changed(key, "", "the run's seed draws the mix")
        elif name == "test_split_size":
            share = held_out if isinstance(held_out, float) and held_out < 1 else 0.05
            draft.put("data.eval_share", share, "a number of rows there" if share != held_out else "")
            if share == held_out:
                draft.mapped(key, f"data.eval_share={share}")
            else:
                draft.changed(key, f"data.eval_share={share}", f"a share of the rows, a number there ({held_out})")
    return held_out is not None


def _rest(draft: Draft) -> None:
    for key in common.each(draft, "chat_template"):
        common.template(draft, key, {})
    for key in common.each(draft, "max_prompt_length"):
        draft.changed(key, "", "data.max_length_tokens bounds whole rows, and data.overflow says how")
    for key in common.each(draft, "model_revision"):
        if key.value == "main":
            draft.mapped(key, "", "the newest")
    for key in common.each(draft, "lora_target_modules"):
        value = key.value[0] if isinstance(key.value, list) and len(key.value) == 1 else key.value
        put(draft, key, "peft.target_modules", value)
    for key in common.each(draft, "save_only_model"):
        if key.value:
            draft.changed(key, "", "every checkpoint can be resumed; train.save_total_limit bounds them")
    for key in common.each(draft, "resume_from_checkpoint"):
        draft.changed(key, "", "ftcli train --resume RUN")
    for key in common.each(draft, "reward_funcs"):
        common.rewards(draft, key)
    common.sampling(draft)
    _trained(draft)


def _trained(draft: Draft) -> None:
    """Which tokens are trained: TRL is asked for answers alone, and ftcli trains nothing else of a conversation."""
    if draft.choices["method"] not in _IMITATES:
        return
    for name, (of, others) in _ANSWERS_ALONE.items():
        for key in common.each(draft, name):
            if key.value is True:
                draft.mapped(key, "data.trained_turns=all", f"of {of} answers alone are trained")
            else:
                draft.changed(key, "data.trained_turns=all", f"{others} there; here answers alone are")
    switch = "assistant_only_loss"
    if draft.get(switch) is None:
        others = _ANSWERS_ALONE[switch][1]
        draft.put("data.trained_turns", "all", f"{others} in TRL")
        draft.by_default.append((switch, "false", "data.trained_turns=all", f"{others} there; here answers alone are"))


def defaults(draft: Draft) -> None:
    """Write out the defaults of the tool that differ from ours."""
    why, method = "TRL's default", draft.choices["method"]
    rate = {"sft": 2e-5, "reward": 1e-4, "dpo": 1e-6, "ipo": 1e-6, "kto": 1e-6, "grpo": 1e-6, "rloo": 1e-6,
            "orpo": 1e-6, "cpo": 1e-6, "simpo": 1e-6}.get(method, 5e-5)  # fmt: skip
    if not draft.get("learning_rate"):
        draft.default("train.learning_rate", rate, why)
    if not draft.get("max_length") and not draft.get("max_seq_length"):
        draft.default("data.max_length_tokens", 1024, f"{why} (max_length)")
    draft.default("data.overflow", "truncate_right", "TRL cuts longer rows off")
    if not draft.get("num_train_epochs") and not schedule.by_steps(draft):
        draft.default("train.num_train_epochs", 3.0, why)
    if not draft.get("per_device_train_batch_size"):
        draft.default("train.per_device_train_batch_size", 8, why)
    if not draft.get("gradient_accumulation_steps"):
        draft.default("train.gradient_accumulation_steps", 1, why)
    if not draft.get("lr_scheduler_type"):
        draft.default("train.lr_scheduler_type", "linear", why)
    if draft.get("warmup_ratio") is None and draft.get("warmup_steps") is None:
        draft.default("train.warmup_steps", 0, why)
    if rows.here(draft):  # of rows that are turns the check takes it out again
        draft.default("data.template", "none", "TRL renders turns alone with a chat template, and plain text as it is")
    if draft.get("packing") is None:
        draft.default("method.packing", False, why)
    if method in _BETA:
        draft.default("method.beta", _BETA[method], why)
    if draft.choices["peft"] in ("lora", "dora", "rslora"):
        if draft.get("lora_r") is None:
            draft.default("peft.r", 16, why)
        if draft.get("lora_alpha") is None:
            draft.default("peft.lora_alpha", 32, why)
        if draft.get("lora_dropout") is None:
            draft.default("peft.lora_dropout", 0.05, why)
    common.groups(draft)
