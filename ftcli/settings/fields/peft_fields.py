"""The fields of PEFT's configs, of every tuner that the installed PEFT has, and of our own settings of adapters."""

from __future__ import annotations

from ftcli.settings.fields.field_row import Rows, owned, plain, read, refused

_IMPORTS = "PEFT imports the module that it names"
_TRAINED = "it names adapters that are trained already"

ROWS: Rows = {
    # Ours, or PEFT's own business.
    "peft.task_type": owned("method"),
    "peft.peft_type": owned("peft=NAME"),
    "peft.base_model_name_or_path": owned("model.name_or_path", "reads"),
    "peft.revision": owned("model.revision"),
    "peft.inference_mode": owned("ftcli train"),
    "peft.peft_version": owned("the installed PEFT"),
    "peft.auto_mapping": refused(_IMPORTS, "runs"),
    "peft.megatron_config": refused("PEFT imports the module that megatron_core names", "runs"),
    "peft.megatron_core": refused(_IMPORTS, "runs"),
    "peft.prompt_tuning_init_state_dict_path": refused("its tuner needs tasks, which no row has", "reads"),
    "peft.adapters": refused(_TRAINED, "reads"),
    # What reads something besides the rows.
    "peft.shadow_model": read("reads", free="mirror, or a model"),
    "peft.tokenizer_name_or_path": read("reads", free="a model; peft=prompt sets it itself"),
    "peft.tokenizer_kwargs": read(
        "runs", guarded="PEFT takes trust_remote_code out of it", inside="arguments of the tokenizer of a prompt"
    ),
    "peft.corda_config": read("reads", "writes", guarded="checked with peft.init_lora_weights: it names no file"),
    "peft.eva_config": read(),
    "peft.lora_ga_config": read("reads", "writes", guarded="checked with peft.init_lora_weights: it names no file"),
    "peft.layer_replication": read("size"),
    # Sizes, rates, switches, and names of modules.
    **plain(
        "peft",
        "ab_svd_init act_fn adapter_layers adapter_len alora_invocation_tokens alpha alpha_pattern apply_GS"
        " arrow_config asa_importance_beta asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta"
        " auxiliary_loss_weight beta1 beta2 bias block_share block_size block_size_pattern boft_block_num"
        " boft_block_size boft_dropout boft_n_butterfly_factor bottleneck_size cayley_neumann_eps coft config_A_B"
        " config_C config_D_E cpt_mask cpt_token_ids cpt_tokens_type_mask d_initial decompose_both decompose_factor"
        " decomposition_method deep deft_dropout delora_lambda deltaT depth dropout effective_rank enable_softmax"
        " enable_softmax_topk encoder_dropout encoder_hidden_size encoder_num_layers encoder_reparameterization_type"
        " ensure_weight_tying eps exclude_modules fan_in_fan_out feedforward_modules final_warmup frod_dropout"
        " generator_seed global_scaling_weight gralora_dropout gralora_k group_size hidden_size hira_dropout hybrid_r"
        " init_ia3_weights init_logits_std init_lora_weights init_r init_rows init_scale init_theta_d_bound"
        " init_v_bound init_vector_bank_bound init_warmup init_weights kasa_config lambda_pattern layers_pattern"
        " layers_to_transform layerwise_scalings loftq_config lora_alpha lora_bias lora_dropout"
        " loraplus_lr_embedding loraplus_lr_ratio mask_interval mask_type mini_r miss_dropout module_dropout modules"
        " modules_to_save monteclora_config n_frequency n_frequency_pattern n_skills n_splits n_tasks non_linearity"
        " num_B num_attention_heads num_cayley_neumann_terms num_frozen_tokens num_layers num_ranks num_subspaces"
        " num_tasks num_transformer_submodules num_vectors num_virtual_tokens oft_block_size opt_loss_decay_factor"
        " opt_projection_epsilon opt_projection_format_epsilon opt_weighted_loss_type orth_reg_weight para placement"
        " poly_type prefix_projection progressbar proj_seed projection_prng_key projection_seed prompt_tuning_init"
        " prompt_tuning_init_task prompt_tuning_init_text proportional_parameters psoft_alpha psoft_dropout"
        " psoft_mag_a psoft_mag_b psoft_orth psoft_svd psoft_svd_lowrank_niter pvera_dropout qalora_group_size r"
        " randlora_alpha randlora_dropout random_loc_seed random_seed rank_dropout rank_dropout_scale rank_pattern"
        " reduction_factor regularization_alpha runtime_config runtime_offload_base_weight sample_at_inference"
        " save_indices save_only_topk_weights save_precomputed_indices save_projection scaling scaling_pass_value"
        " select_top shadow_alpha shadow_dropout shadow_hidden_size shadow_intermediate_size"
        " shadow_num_attention_heads shadow_num_hidden_layers share_embeddings softmax_temperature sparse sparse_rate"
        " sparsity stride_A subspace_rank svd_threshold target_modules target_parameters target_r target_svd_config"
        " tfinal theta_d_length tinit tinylora_dropout token_dim token_indices top_k_lora topk total_step"
        " trainable_token_indices type u unilora_dropout update_hidden_size use_asa use_bdlora use_cayley_neumann"
        " use_dora use_dynamic_rank use_effective_conv2d use_idwt use_qalora use_rslora use_trainable_adapters"
        " variant vblora_dropout vector_length velora_config vera_dropout very_sparse wavelet_family weight_tying"
        " xlora_depth xlora_dropout_p xlora_size",
    ),
}
