"""Wrong but accepted is the disease of this field: each of these is refused, for its own reason, with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RECIPE_HEAD = "ftcli: 1\ndefaults:\n  - method: sft\n"


BETA = "option of cpo, distillation, dpo, grpo, ipo, kto, orpo, rloo, simpo, not of sft"


@pytest.mark.parametrize(
    ("overrides", "where", "reason", "remedy"),
    [
        (["peft=lora", "peft.r=sixteen"], "peft.r=sixteen", "not a whole number", "whole number"),
        (
            ["method=dpo", "method.loss_type=simpoo"],
            "method.loss_type=simpoo", "not a value of method.loss_type", "ipo",
        ),
        (["method=distillation"], "method=distillation", "no teacher model is set", "method.teacher_model"),
        (
            ["method=distillation", "method.teacher_model=builtin:tiny", "peft=prompt"],
            "peft=prompt", "bypasses", "peft=lora",
        ),
        (
            ["method=distillation", "method.teacher_model=Qwen/Qwen3-8B"],
            "method.teacher_model=Qwen/Qwen3-8B", "has a vocabulary of 151936 tokens, the student", "model family",
        ),
        (
            ["method=ppo", "method.reward_model=builtin:tiny"],
            "method.reward_model=builtin:tiny", "is a causal LM, not a reward model", "method=reward trained",
        ),
        (["method=ppo", "method.use_vllm=true", "hardware=gpu"], "method.use_vllm=true",
            "vLLM is not installed", "remove it to generate with transformers"),
        (["method=ppo", "method.use_vllm=true"], "method.use_vllm=true",
            "this run computes on a CPU", "remove method.use_vllm to generate with transformers"),
        (["data.path=builtin:maners"], "data.path=builtin:maners", "is not a built-in set", "builtin:manners"),
        (["method=dppo"], "method=dppo", "not a choice of method", "did you mean method=dpo or method=ppo?"),
        (["quantisation=int5"], "quantisation=int5", "not a choice of quantisation", "int8"),
        (["peft=lora", "peft.lora_dropout=5.0"], "peft.lora_dropout=5.0", "out of range", "below 1"),
        (["data.split_seed=7"], "data.split_seed=7", "read only with data.eval_share above 0", "set data.eval_share"),
        (["data.eval_share=0.2", "data.split_seed=-1"], "data.split_seed=-1", "out of range", "at least 0"),
        (["train.learning_rate=0"], "train.learning_rate=0", "out of range", "above 0"),
        (["train.num_train_epochs=0"], "train.num_train_epochs=0", "out of range", "above 0"),
        (["train.max_steps=0"], "train.max_steps=0", "out of range", "at least 1"),
        (["train.adam_beta1=1"], "train.adam_beta1=1", "out of range", "below 1"),
        (["peft=lora", "peft.lora_dropout=1"], "peft.lora_dropout=1", "out of range", "below 1"),
        (["method=cpo", "method.label_smoothing=0.5"], "method.label_smoothing=0.5", "out of range", "below 0.5"),
        (["train.lr_scheduler_type=constant", "train.warmup_steps=3"], "train.warmup_steps=3", "has no effect",
         "constant_with_warmup"),
        (["train.learning_rate=-1"], "train.learning_rate=-1", "out of range", "above 0"),
        (["train.learning_rate=nan"], "train.learning_rate=nan", "not a finite number", "finite"),
        (["train.weight_decay=.nan"], "train.weight_decay=.nan", "not a number", "number"),
        (["method=dpo", "method.ld_alpha=inf"], "method.ld_alpha=inf", "not a finite number", "finite"),
        (["train.per_device_train_batch_size=0"], "train.per_device_train_batch_size=0", "out of range", "at least 1"),
        (["peft.r=64"], "peft.r=64", "no effect with peft=none", "peft=lora"),
        (["peft=lora", "peft.lora_alpha=0"], "peft.lora_alpha=0", "out of range", "above 0"),
        (["train.optim=adamw_torhc"], "train.optim=adamw_torhc", "not a value of train.optim", "adamw_torch?"),
        (["seed=abc"], "seed=abc", "not a whole number", "seed=42"),
        (["data.path=nowhere.jsonl"], "data.path=nowhere.jsonl", "does not exist", ""),
        (["method.packing_strategy=ffd"], "method.packing_strategy=ffd", "not a value", "bfd"),
        (
            ["train.gradient_checkpointing=offload"],
            "train.gradient_checkpointing=offload", "not true or false", "true or false",
        ),
        (["train.seed=1"], "train.seed=1", "owned by seed", "use seed"),
        (["train.output_dir=x"], "train.output_dir=x", "owned by run.dir", "use run.dir"),
        (["method.max_length=1"], "method.max_length=1", "owned by data.max_length_tokens", "data.max_length_tokens"),
        (["train.hub_token=x"], "train.hub_token=x", "refused", ""),
        (["method.beta=0.1"], "method.beta=0.1", BETA, "one of those"),
        (["train.beta=0.1", "method=dpo"], "train.beta=0.1", "not an option of train", "did you mean method.beta?"),
        (["lerning_rate=1"], "lerning_rate=1", "not a group or setting", ""),
        (["learning_rate=1"], "learning_rate=1", "not a group or setting", "train.learning_rate"),
        (["train.lerning_rate=1"], "train.lerning_rate=1", "not an option", "did you mean train.learning_rate?"),
        (["method=lora"], "method=lora", "lora is a choice of peft, not of method", "ftcli train peft=lora"),
        (["peft=lora", "peft.target_modules=[lm_head]"], "peft.target_modules=[lm_head]", "fused", "modules_to_save"),
        (["peft=lora", "peft.target_modules=[q_prj]"], "peft.target_modules=[q_prj]", "no module", "the model has"),
        (["train.learning_rate=1e-4,2e-4"], "train.learning_rate=1e-4,2e-4", "several values", "-m"),
        (["train.learning_rate=${oc.env:HOME}"], "train.learning_rate=${oc.env:HOME}", "resolver", "references"),
        (["train.bf16=true", "train.fp16=true"], "train.fp16=true", "both on", "keep one"),
        (["train.fp16=true", "hardware=cpu"], "train.fp16=true", "needs a GPU", "float32"),
        (["train.save_steps=10.5"], "train.save_steps=10.5", "neither a whole number of steps nor a share", "10"),
        (["run.early_stopping_patience=2"], "run.early_stopping_patience=2", "not tracked", "load_best_model_at_end"),
        (["run.profile_steps=3"], "run.profile_steps=3", "no effect without run.profile", "run.profile=true"),
        (
            ["run.profile=true", "run.profile_steps=9", "train.max_steps=5"],
            "run.profile_steps=9", "more steps than the 5", "5 or fewer",
        ),
        (["run.profile=true", "run.profile_steps=0"], "run.profile_steps=0", "out of range", "at least 1"),
        (["train.profile=true"], "train.profile=true", "not an option of train", "did you mean run.profile?"),
        (["data.eval_share=0.1", "data.eval_path=builtin:tiny"], "data.eval_share=0.1", "both set", "keep one"),
        (["model.name_or_path=/no/such/folder"], "model.name_or_path=/no/such/folder", "holds no model", "folder"),
        (["run.name=a/b"], "run.name=a/b", "not a plain name", "letters"),
        (["~peft"], "~peft", "a run needs a choice of peft", "peft=none"),
        (["~train.nothing"], "~train.nothing", "not set", ""),
        (["method=dpo", "method.loss_type=[exo_pair]"], "method.loss_type=[exo_pair]", "label_smoothing", "1e-3"),
        (
            ["method=dpo", "peft=lora", "method.sync_ref_model=true"],
            "method.sync_ref_model=true", "reference", "peft=none",
        ),
        (["method=dpo", "method.label_smoothing=0.1", "method.loss_type=hinge"], "method.label_smoothing=0.1",
            "not read by the loss hinge", "sigmoid"),
        (["method=dpo", "method.label_smoothing=0.5"], "method.label_smoothing=0.5", "nothing to learn", "below 0.5"),
        (["method=dpo", "method.loss_type=nca_pair", "method.f_divergence_type=js_divergence"],
            "method.f_divergence_type=js_divergence", "does not apply to the loss nca_pair", "reverse_kl"),
        (["method=dpo", "method.loss_type=aot", "method.use_weighting=true"],
            "method.use_weighting=true", "sorts", "loss_type"),
        (["method=dpo", "method.discopop_tau=0.1"], "method.discopop_tau=0.1", "read only", "loss_type=[discopop]"),
        (["method=kto", "method.ref_model_sync_steps=9"], "method.ref_model_sync_steps=9", "read only", "sync_ref"),
        (["method=dpo", "method.precompute_ref_log_probs=true", "data.streaming=true", "train.max_steps=2"],
            "method.precompute_ref_log_probs=true", "no known length", "remove it"),
        (["method.chat_template_path=t.jinja"], "method.chat_template_path=t.jinja", "owned by model.chat_template",
            "model.chat_template"),
        (["method=reward", "method.eos_token=x"], "method.eos_token=x", "owned by the tokenizer", "tokenizer"),
        (["method=grpo", "method.chat_template_kwargs={a: 1}"], "method.chat_template_kwargs={a: 1}",
            "owned by model.chat_template_kwargs", "model.chat_template_kwargs"),
        (["method=grpo", "method.max_tool_calling_iterations=2"], "method.max_tool_calling_iterations=2",
            "no tools", "remove"),
        (["train.activation_checkpointing=true"], "train.activation_checkpointing=true",
            "owned by train.gradient_checkpointing", "train.gradient_checkpointing"),
        (["method=grpo", "method.loss_type=nonsense"], "method.loss_type=nonsense", "not a value", "dr_grpo"),
        (["method=grpo", "method.scale_rewards=zzz"], "method.scale_rewards=zzz", "not a value", "batch"),
        (["method=grpo", "method.vllm_mode=zzz"], "method.vllm_mode=zzz", "not a value", "colocate"),
        (["method=grpo", "method.vllm_server_host=h"], "method.vllm_server_host=h", "read only", "use_vllm=true"),
        (["method=grpo", "method.sapo_temperature_pos=2"], "method.sapo_temperature_pos=2", "read only", "sapo"),
        (["method=grpo", "method.cache_implementation=zzz"], "method.cache_implementation=zzz", "not a value",
            "static"),
        (["method=grpo", "method.generation_kwargs={num_bems: 2}"], "method.generation_kwargs={num_bems: 2}",
            "no entry num_bems", "choose from"),
        (["method=grpo", "method.generation_kwargs={top_p: 0.5}"], "method.generation_kwargs={top_p: 0.5}",
            "owned by method.top_p", "method.top_p"),
        (["method=grpo", "method.generation_batch_size=12", "method.num_generations=4"],
            "method.generation_batch_size=12", "multiple", "8"),
        (["train.debug=nonsense"], "train.debug=nonsense", "not a value", "underflow_overflow"),
        (["train.fsdp=full_shard zzz"], "train.fsdp=full_shard zzz", "zzz is not a value", "full_shard"),
        (["train.torch_compile_backend=zzz"], "train.torch_compile_backend=zzz", "not a value", "inductor"),
        (["train.optim=galore_adamw", "train.optim_target_modules=all-linear"], "train.optim=galore_adamw",
            "needs the package", "pip install galore-torch"),
        (["train.optim=paged_adamw_8bit"], "train.optim=paged_adamw_8bit", "on a CPU", "adamw_8bit"),
        (["train.optim=sgd", "train.optim_args='momentm=0.9'"], "train.optim_args='momentm=0.9'",
            "no argument", "momentum"),
        (["train.optim=sgd", "train.optim_args='momentum=high'"], "train.optim_args='momentum=high'",
            "not a number", ""),
        (["train.optim=adafactor", "train.adam_beta1=0.8"], "train.adam_beta1=0.8", "not read by", "Adam family"),
        (["train.optim_target_modules=all-linear"], "train.optim_target_modules=all-linear", "read only", "galore"),
        (["train.lr_scheduler_type=cosine_with_min_lr"], "train.lr_scheduler_type=cosine_with_min_lr", "needs min_lr",
            "lr_scheduler_kwargs={min_lr_rate: 0.1}"),
        (["train.lr_scheduler_type=warmup_stable_decay"], "train.lr_scheduler_type=warmup_stable_decay",
            "needs num_decay_steps", "lr_scheduler_kwargs"),
        (["train.lr_scheduler_kwargs={num_cycle: 1}"], "train.lr_scheduler_kwargs={num_cycle: 1}", "no argument",
            "num_cycles"),
        (["train.lr_scheduler_kwargs={num_cycles: many}"], "train.lr_scheduler_kwargs={num_cycles: many}",
            "wrong type", "number"),
        (["train.lr_scheduler_type=warmup_stable_decay", "train.max_steps=20", "train.warmup_steps=0.1",
            "train.lr_scheduler_kwargs={num_stable_steps: 8, num_decay_steps: 8}"],
            "train.lr_scheduler_kwargs={num_stable_steps: 8, num_decay_steps: 8}", "are 18 steps, and the rest of 20",
            "leave num_stable_steps out"),
        (["train.lr_scheduler_type=reduce_lr_on_plateau", "data.eval_share=0.5",
            "train.lr_scheduler_kwargs={factor: 0}"],
            "train.lr_scheduler_kwargs={factor: 0}", "sets the rate to 0", "a share between 0 and 1"),
        (["train.lr_scheduler_type=reduce_lr_on_plateau", "train.eval_strategy=no"],
            "train.lr_scheduler_type=reduce_lr_on_plateau", "nothing is evaluated", "eval_share"),
        (["train.load_best_model_at_end=true", "train.metric_for_best_model=acuracy"],
            "train.metric_for_best_model=acuracy", "nothing reports", "accuracy"),
        (["train.metric_for_best_model=loss"], "train.metric_for_best_model=loss", "no effect",
            "load_best_model_at_end"),
        (["train.save_strategy=best"], "train.save_strategy=best", "no metric", "metric_for_best_model=loss"),
        (["train.tf32=true", "hardware=cpu"], "train.tf32=true", "Ampere", "remove it"),
        (["train.dataloader_prefetch_factor=2"], "train.dataloader_prefetch_factor=2", "num_workers above 0", "set"),
        (["train.gradient_checkpointing=true", "train.gradient_checkpointing_kwargs={use_reentant: false}"],
            "train.gradient_checkpointing_kwargs={use_reentant: false}", "no entry", "use_reentrant"),
        (["hardware=cpu", "train.gradient_checkpointing=true", "train.gradient_checkpointing_kwargs={offload: true}"],
            "train.gradient_checkpointing_kwargs={offload: true}", "computes on a CPU", "remove it"),
        (["train.gradient_checkpointing=true", "train.gradient_checkpointing_kwargs={debug: true}"],
            "train.gradient_checkpointing_kwargs={debug: true}", "use_reentrant=false", "use_reentrant: false"),
        (["method=grpo", "method.top_entropy_quantile=2"], "method.top_entropy_quantile=2", "out of range", "at most"),
        (["method=grpo", "method.generation_kwargs={no_repeat_ngram_size: two}"],
            "method.generation_kwargs={no_repeat_ngram_size: two}", "not of its type", "whole number"),
        (["method=grpo", "method.generation_kwargs={typical_p: 2.5}"], "method.generation_kwargs={typical_p: 2.5}",
            "out of range", "at most 1"),
        (["method=grpo", "method.generation_kwargs={stop_strings: [x]}"],
            "method.generation_kwargs={stop_strings: [x]}", "none that sampling reads", "choose from"),
        (["method=grpo", "hardware=cpu", "method.cache_implementation=offloaded"],
            "method.cache_implementation=offloaded", "computes on a CPU", "remove it"),
        (["method=grpo", "method.cache_implementation=quantized"], "method.cache_implementation=quantized",
            "optimum-quanto", "pip install"),
        (["method=dpo", "method.loss_type=[]"], "method.loss_type=[]", "names no loss", "sigmoid"),
        (["method.router_aux_loss_coef=0.1"], "method.router_aux_loss_coef=0.1", "no experts", "remove it"),
        (["method=rloo", "method.reward_clip_range=[1, -1]"], "method.reward_clip_range=[1, -1]", "no reward between",
            "lower end"),
        (["method.pad_to_multiple_of=0"], "method.pad_to_multiple_of=0", "out of range", "at least 1"),
        (["train.accelerator_config={split_batches: true}"], "train.accelerator_config={split_batches: true}",
            "owned by train.per_device_train_batch_size", "train.per_device_train_batch_size"),
        (["train.accelerator_config={evenbatches: true}"], "train.accelerator_config={evenbatches: true}",
            "no entry", "even_batches"),
        (["train.accelerator_config=nofile.json"], "train.accelerator_config=nofile.json", "cannot be read", "JSON"),
        (["hardware=multi_gpu", "train.fsdp=true", "train.fsdp_config=nofile.json"], "train.fsdp_config=nofile.json",
            "cannot be read", "JSON"),
        (["hardware=multi_gpu", "train.fsdp=true", "train.fsdp_config={vesion: 2}"], "train.fsdp_config={vesion: 2}",
            "no entry vesion", "version"),
        (["train.fsdp_config={version: 2}"], "train.fsdp_config={version: 2}", "read only with train.fsdp", "set"),
        (["hardware=cpu", "train.fsdp=true"], "train.fsdp=true", "this run has one", "remove it"),
        (["hardware=gpu", "train.fsdp=true"], "train.fsdp=true", "this run has one", "multi_gpu"),
        (["train.label_smoothing_factor=0.1", "method=dpo"], "train.label_smoothing_factor=0.1",
            "not read by the trainer of dpo", "remove it"),
        (["method=dpo", "train.train_sampling_strategy=group_by_length"],
            "train.train_sampling_strategy=group_by_length", "have several", "sequential"),
        (["train.ddp_timeout=60"], "train.ddp_timeout=60", "read only with hardware.num_processes", "set"),
        (["method=grpo", "method.log_completions_hub_repo=a/b", "method.log_completions=false"],
            "method.log_completions_hub_repo=a/b", "read only", "log_completions=true"),
        (["method=dpo", "data.margin_column=gap"], "data.margin_column=gap",
            "method=dpo does not train", "method=reward"),
        (["foo"], "foo", "neither group=choice nor key=value", "method=dpo"),
    ],
)  # fmt: skip
def test_refused_for_its_own_reason(problems, here, overrides, where, reason, remedy):
    found = problems(*overrides)
    matching = [problem for problem in found if problem.startswith(f"{where}  ")]
    assert matching, found
    assert reason in matching[0]
    assert remedy in matching[0]
    assert len(found) == 1, found


def test_all_problems_are_told_at_once(problems, here):
    found = problems(
        "peft=lora", "peft.r=x", "train.learning_rate=-1", "seed=abc", "data.path=none.json", "method.betta=1"
    )
    assert len(found) == 5


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ('method: {packing: "no"}\n', 4, "method.packing is 'no', which is not true or false"),
        ('train: {bf16: "false"}\n', 4, "train.bf16 is 'false', which is not true or false"),
        ("train:\n  bf16: yes\n", 5, "train.bf16 is 'yes'"),
        ("train:\n  learning_rate: .nan\n", 5, "not a finite number"),
        ("method:\n  betta: 0.1\n", 5, "method.betta is not an option of method=sft"),
        ("method:\n  beta: 0.1\n", 5, "rloo, simpo, not of sft"),
        ("trian:\n  x: 1\n", 4, "trian is not a key of a recipe"),
        ("train.learning_rate: 1\n", 4, "train.learning_rate is not a key of a recipe"),
        ("peft: {r: 8}\n", 4, "no effect with peft=none"),
        ("data:\n  path: gone.jsonl\n", 5, "does not exist"),
    ],
)
def test_a_recipe_fault_is_told_with_its_line(problems, here, body, line, reason):
    Path("r.yaml").write_text(RECIPE_HEAD + body, encoding="utf-8")
    found = problems("recipe=r.yaml")
    assert len(found) == 1, found
    assert f"r.yaml:{line}  " in found[0]
    assert reason in found[0]


def test_switching_the_method_of_a_recipe_names_the_knob_it_leaves_behind(problems, here):
    Path("r.yaml").write_text("ftcli: 1\ndefaults:\n  - method: dpo\nmethod:\n  beta: 0.2\n", encoding="utf-8")
    assert problems("recipe=r.yaml") == []
    [found] = problems("recipe=r.yaml", "method=sft")
    assert found.startswith(f"r.yaml:5  method.beta is an {BETA}")


def test_a_missing_column_lists_those_that_are_there(problems, here):
    Path("rows.jsonl").write_text('{"question_text": "a", "reply": "b"}\n', encoding="utf-8")
    [found] = problems("data.path=rows.jsonl")
    assert "question_text" in found
    assert "reply" in found
    [found] = problems("data.path=rows.jsonl", "data.columns.prompt=question", "data.columns.completion=reply")
    assert "question" in found
    assert "question_text" in found


def test_rows_of_the_wrong_kind_are_refused_by_the_method(problems, here):
    Path("text.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert problems("data.path=text.jsonl") == []
    [found] = problems("data.path=text.jsonl", "method=instruct")
    assert "instruct" in found
    [found] = problems("data.path=text.jsonl", "method=dpo")
    assert "preference" in found


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "ds.json:1 is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"zero_optimisation": {"stage": 2}}', "no entry zero_optimisation"),
        ('{"zero_optimization": {"stage": 7}}', "is not a stage"),
        ('{"zero_optimization": {"stge": 2}}', "no entry stge"),
        ('{"zero_optimization": {"stage": 3}}', "leaves the finished model in pieces"),
        ('{"train_micro_batch_size_per_gpu": 3}', "differs from train.per_device_train_batch_size=8"),
        ('{"train_batch_size": 100}', "differs from the run's 16 rows per step"),
    ],
)
def test_nonsense_in_a_deepspeed_file_is_found(problems, here, content, reason):
    pytest.importorskip("deepspeed")
    (here / "ds.json").write_text(content, encoding="utf-8")
    [found] = problems("train.deepspeed=ds.json", "hardware=cpu", "hardware.num_processes=2")
    assert reason in found


def test_the_newer_checkpointing_is_refused_where_zero3_needs_the_older(problems, here):
    pytest.importorskip("deepspeed")
    whole = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    (here / "ds.json").write_text(json.dumps({"zero_optimization": whole}), encoding="utf-8")
    zero = ("train.deepspeed=ds.json", "hardware=cpu", "hardware.num_processes=2", "train.gradient_checkpointing=true")
    newer = "train.gradient_checkpointing_kwargs={use_reentrant: false}"
    [found] = problems(*zero, newer, "peft=lora")
    assert found.startswith("train.gradient_checkpointing_kwargs")
    assert "under ZeRO-3 an adapter trains with the older checkpointing only" in found
    assert problems(*zero, newer) == []
    assert problems(*zero, "peft=lora") == []


def test_a_sound_deepspeed_file_is_taken(problems, here):
    pytest.importorskip("deepspeed")
    sound = {"zero_optimization": {"stage": 2, "overlap_comm": True}, "train_batch_size": "auto"}
    text = json.dumps({**sound, "bf16": {"enabled": "auto"}})
    (here / "ds.json").write_text(text, encoding="utf-8")
    assert problems("train.deepspeed=ds.json", "hardware=cpu", "hardware.num_processes=2") == []


def test_a_reward_function_is_looked_for_without_being_imported(problems, here, monkeypatch):
    package = here / "lib/mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    (package / "score.py").write_text(
        "def right(completions, **_):\n    return [1.0 for _ in completions]\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(here / "lib"))
    monkeypatch.syspath_prepend(str(here / "lib"))
    for name, reason in (
        ("mine.score:right", None),
        ("mine.score:wrong", "defines no wrong"),
        ("mine.scores:right", "there is no module mine.scores"),
        ("nowhere:right", "there is no module nowhere"),
        ("mine.score.right", "neither file.py:function nor package.module:function"),
        ("lib/mine/score.py:right", None),
        ("lib/mine/score.py:wrong", "defines no wrong"),
        ("lib/gone.py:right", "there is no file"),
        ("lib/gone.py:not right", "neither file.py:function nor package.module:function"),
    ):
        lines = ("ftcli: 1", "defaults: [{method: grpo}, {hardware: cpu}]", "method:", "  reward_functions:")
        (here / "r.yaml").write_text("\n".join((*lines, f'    "{name}": 1', "")), encoding="utf-8")
        found = problems("recipe=r.yaml", grants=frozenset({"--trust-reward-code"}))
        assert len(found) == (reason is not None), name
        assert all(str(reason) in problem for problem in found), (name, found)


def test_an_optimiser_that_projects_gradients_needs_its_modules(problems):
    found = problems("train.optim=galore_adamw")
    assert any("needs the modules" in problem and "optim_target_modules=all-linear" in problem for problem in found)


def test_an_evaluation_before_the_first_step_needs_held_out_rows(problems, here):
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2, encoding="utf-8")
    [found] = problems("data.path=rows.jsonl", "train.eval_on_start=true")
    assert "train.eval_on_start is read only with held-out rows" in found
