"""The fields of the trainers' own configs, group `method`: TRL's and ours.

A key `method.NAME@CLASS` is for the field as CLASS declares it, and goes before `method.NAME`.
"""

from __future__ import annotations

from ftcli.settings.fields.field_row import Rows, compared, literal, owned, plain, read, refused
from ftcli.settings.ownership import ENDPOINT, PUSH, REWARD_CODE

_GRPO = "trl.trainer.grpo_trainer"
_VLLM = "method.use_vllm=true"
_COLOCATED = (_VLLM, "method.vllm_mode=colocate")
_SERVED = (_VLLM, "method.vllm_mode=server")
_CORRECTED = (_VLLM, "method.vllm_importance_sampling_correction=true")
_CLIPPED = "method.loss_type=grpo|bnpo|dr_grpo|dapo|luspo"
_UNSERVED = f"not {_VLLM}"
_BATCHED = "not method.use_transformers_continuous_batching=true"
_ADAPTS = "method.use_adaptive_entropy=true"
_SYNCED = "method.sync_ref_model=true"
_LOGGED = "method.log_completions=true"
_ANSWERS = "the answers: `method` trains only those, in every turn that data.trained_turns names"
_HOST = "a port of the host, which is this machine or was granted"
_TEXT = "rows are text, and no image of theirs could be logged"
_TOOLS = "the policy is given no tools to call while it samples"
_REFERENCE = "a reference that follows the policy is used only where the loss has one: set method.beta above 0"
_FLATTENED = "method.packing, which wastes no padding and keeps rows apart on every attention kernel"

ROWS: Rows = {
    # Read elsewhere: our own rows, tokens, templates and models.
    "method.max_length": owned("data.max_length_tokens", "size"),
    "method.truncation_mode": owned("data.overflow"),
    "method.dataset_text_field": owned("data.columns"),
    "method.dataset_kwargs": owned("data.*"),
    "method.dataset_num_proc": owned("data.*"),
    "method.shuffle_dataset": owned("seed"),
    "method.model_init_kwargs": owned("model.*", "reads", "runs"),
    "method.trust_remote_code": owned("model.trust_remote_code", "runs"),
    "method.chat_template_path": owned("model.chat_template", "reads"),
    "method.chat_template_kwargs": owned("model.chat_template_kwargs"),
    "method.eval_packing": owned("method.packing, which held-out rows use too"),
    "method.padding_free": owned(_FLATTENED),
    "method.pad_token": owned("the tokenizer"),
    "method.eos_token": owned("the tokenizer, whose end tokens the chat template and model.chat_template decide"),
    "method.completion_only_loss": owned(_ANSWERS),
    "method.assistant_only_loss": owned(_ANSWERS),
    "method.reward_weights": owned("method.rewards, whose entries each have a weight"),
    "method.teacher_model_name_or_path": owned("method.teacher_model", "reads"),
    "method.teacher_model_revision": owned("method.teacher_model"),
    "method.teacher_model_init_kwargs": owned("method.teacher_model", "reads", "runs"),
    "method.use_transformers_paged": owned("method.use_transformers_continuous_batching"),
    "method.vllm_importance_sampling_cap": owned("method.vllm_importance_sampling_clip_max"),
    "method.log_multimodal": refused(_TEXT),
    "method.max_tool_calling_iterations": refused(_TOOLS, "size"),
    # Several methods.
    **plain(
        "method",
        "beta temperature top_p top_k min_p repetition_penalty disable_dropout activation_offloading num_iterations"
        " router_aux_loss_coef mask_truncated_completions gamma entropy_coef label_smoothing nll_weight nll_on_prompt"
        " use_vllm log_completions sync_ref_model steps_per_generation",
    ),
    "method.use_transformers_continuous_batching": read(needs=_UNSERVED),
    "method.pad_to_multiple_of": read(choices=("auto",)),
    "method.num_generations": read("size"),
    "method.num_generations_eval": read("size", needs="train.eval_strategy=steps|epoch"),
    "method.max_completion_length": read("size"),
    "method.generation_batch_size": read("size"),
    "method.generation_batch_size@PpoConfig": read("size", needs=(_UNSERVED, _BATCHED)),
    "method.ref_model_mixup_alpha": read(needs=_SYNCED),
    "method.ref_model_sync_steps": read(needs=_SYNCED),
    # Supervised fine-tuning.
    "method.packing": read(),
    "method.packing_strategy": read(choices=compared("trl.data_utils", "strategy"), needs="method.packing=true"),
    "method.loss_type@SFTConfig": read(choices=compared("trl.trainer.sft_trainer", "loss_type")),
    # Preferences.
    "method.loss_type@DPOConfig": read(choices=compared("trl.trainer.dpo_trainer", "loss_type")),
    "method.loss_type@KTOConfig": read(choices=compared("trl.trainer.kto_trainer", "loss_type")),
    "method.reference_model": read("reads", "size", free="a run, a model folder or a hub id"),
    "method.f_divergence_type": read(choices=compared("trl.trainer.dpo_trainer", "f_divergence_type")),
    "method.f_alpha_divergence_coef": read(needs="method.f_divergence_type=alpha_divergence"),
    "method.discopop_tau": read(needs="method.loss_type=discopop"),
    "method.precompute_ref_batch_size": read("size", needs="method.precompute_ref_log_probs=true"),
    **plain("method", "loss_weights ld_alpha use_weighting precompute_ref_log_probs desirable_weight"),
    **plain("method", "undesirable_weight center_rewards_coefficient"),
    # Rewards of sampled answers.
    "method.reward_model": read("reads", "size", free="a run or a model folder"),
    "method.reward_model_weight": read(needs="method.reward_model=*"),
    "method.judge": read("reads", "size", inside="the settings of a backend, checked with the backends"),
    "method.judge_weight": read(needs="method.judge=*"),
    "method.judge_constitution": read("reads", free="a file, or the name of a built-in one", needs="method.judge=*"),
    "method.judge_principles": read(needs="method.judge=*"),
    "method.rewards": read(inside="rules by name, checked by ftcli/rewards/rules.py"),
    "method.reward_functions": read("runs", inside="functions", grant=REWARD_CODE),
    "method.teacher_model": read("reads", "size", free="a run, a model folder or a hub id"),
    "method.value_model": read("reads", "size", free="head, reward_model, a run or a model folder"),
    # GRPO and RLOO.
    "method.variant": read(choices=("grpo", "dr_grpo", "dapo", "gspo", "cispo")),
    "method.loss_type@GRPOConfig": read(choices=compared(_GRPO, "loss_type")),
    "method.scale_rewards": read(
        choices=compared(_GRPO, "scale_rewards"), needs="method.multi_objective_aggregation=sum_then_normalize"
    ),
    "method.importance_sampling_level": read(
        choices=compared(_GRPO, "importance_sampling_level"), needs="not method.loss_type=vespo"
    ),
    "method.multi_objective_aggregation": read(choices=compared(_GRPO, "multi_objective_aggregation")),
    "method.epsilon@GRPOConfig": read(needs=_CLIPPED),
    "method.epsilon@RLOOConfig": read(),
    "method.epsilon_high@GRPOConfig": read(needs=_CLIPPED + "|cispo"),
    "method.epsilon_high@RLOOConfig": read(),
    "method.delta": read(needs=_CLIPPED),
    **{f"method.sapo_temperature_{sign}": read(needs="method.loss_type=sapo") for sign in ("pos", "neg")},
    **{
        f"method.vespo_{name}_{sign}": read(needs="method.loss_type=vespo")
        for name in ("k", "lambda")
        for sign in ("pos", "neg")
    },
    **{f"method.entropy_{name}": read(needs=_ADAPTS) for name in ("coef_min", "coef_max", "coef_delta", "target")},
    "method.sync_ref_model@GRPOConfig": read(needs="method.beta>0"),
    "method.sync_ref_model@RLOOConfig": read(needs="method.beta>0"),
    "method.use_bias_correction_kl": read(needs="method.beta>0"),
    **plain("method", "use_adaptive_entropy top_entropy_quantile off_policy_mask_threshold cast_lm_head_to_fp32"),
    **plain("method", "reward_clip_range normalize_advantages"),
    "method.log_unique_prompts": read(needs=_LOGGED),
    "method.num_completions_to_print": read(needs=_LOGGED),
    "method.log_completions_hub_repo": read("sends", free="a name at the hub", needs=_LOGGED, grant=PUSH),
    # Generation.
    "method.generation_kwargs": read("size", inside="generation"),
    "method.cache_implementation": read(
        choices=literal("transformers.generation.configuration_utils", "_CACHE_IMPLEMENTATIONS"), needs=_UNSERVED
    ),
    "method.transformers_continuous_batching_config": read(
        "size", inside="continuous_batching", needs="method.use_transformers_continuous_batching=true"
    ),
    "method.ds3_gather_for_generation": read(needs="train.deepspeed=*"),
    "method.vllm_mode": read(choices=("colocate", "server"), needs=_VLLM),
    "method.vllm_model_impl": read(
        "runs", choices=("auto", "vllm", "transformers"), needs=_VLLM, guarded="code of a model runs as for its trainer"
    ),
    "method.vllm_server_base_url": read("sends", free="an address", needs=_SERVED, grant=ENDPOINT),
    "method.vllm_server_host": read("sends", free="an address", needs=_SERVED, grant=ENDPOINT),
    "method.vllm_server_port": read("sends", needs=_SERVED, guarded=_HOST),
    "method.vllm_server_timeout": read(needs=_SERVED),
    "method.vllm_group_port": read("sends", needs=_SERVED, guarded=_HOST),
    **{
        f"method.vllm_{name}": read("size", needs=_COLOCATED)
        for name in ("gpu_memory_utilization", "max_model_length", "tensor_parallel_size", "enable_sleep_mode")
    },
    "method.vllm_structured_outputs_regex": read(free="a regular expression", needs=_VLLM),
    "method.vllm_importance_sampling_correction": read(needs=_VLLM),
    "method.vllm_importance_sampling_mode": read(
        choices=compared(_GRPO, "vllm_importance_sampling_mode"), needs=_CORRECTED
    ),
    "method.vllm_importance_sampling_clip_min": read(needs=_CORRECTED),
    "method.vllm_importance_sampling_clip_max": read(needs=_CORRECTED),
    # PPO.
    **plain(
        "method",
        "num_ppo_epochs kl_coef kl_target lam cliprange cliprange_value vf_coef value_learning_rate whiten_rewards"
        " whiten_advantages missing_eos_penalty reward_clip normalise_rewards log_completions_steps",
    ),
    "method.kl_horizon": read(needs="method.kl_target=*"),
    "method.max_new_tokens": read("size"),
    "method.num_mini_batches": read("size"),
    "method.kl_estimator": read(choices=("k1", "k3")),
    "method.score_at": read(choices=("last", "each")),
}  # fmt: skip
