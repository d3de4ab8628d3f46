"""Loads everything that a run needs for training or measuring: config, data, models, rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, set_seed
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.core.errors import ConfigError, Problem
from ftcli.data import row_sets
from ftcli.data.dropped_rows import DroppedRows
from ftcli.methods import Method, get_method
from ftcli.models.sources import resolved_source
from ftcli.models.stored_quantisation import stored_quantisation
from ftcli.peft_methods import PeftMethod, peft_method, starts_plain
from ftcli.runs import rundir
from ftcli.runs.measured_attention import AttentionChoice
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.groups import ModelSettings, as_saved
from ftcli.settings.run_spec import RunSpec
from ftcli.settings.sharding import shards_weights
from ftcli.settings.shared_loading import wanted, why_each_reads
from ftcli.worker.distributed import cpu_sharding
from ftcli.worker.distributed.load_once import load_once, send
from ftcli.worker.distributed.sharded import whole_weights
from ftcli.worker.inference.metrics import Rewarded
from ftcli.worker.inference.sampling import stop_ids
from ftcli.worker.models.answer_ends import ending_as
from ftcli.worker.models.load import UNQUANTISED, load_model, make_encoder, position_limit
from ftcli.worker.models.new_tokens import check_vocabulary, train_rows
from ftcli.worker.models.unread_weights import switch_off
from ftcli.worker.process.activity import phase
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import fitting
from ftcli.worker.trainers.rl import vllm_engine
from ftcli.worker.trainers.rl.critic import ValueHead, ValueNetwork
from ftcli.worker.training import attention_choice
from ftcli.worker.training.expert_targets import reach_experts
from ftcli.worker.training.library_configs import check_world, make_support, peft_config, training_config
from ftcli.worker.training.trainer import needs_reference
from ftcli.worker.tuners.support import Support

_SMALL_PARAMETERS = 10_000_000


@dataclass
class Loaded:
    """A run in memory."""

    spec: RunSpec
    method: Method
    run_dir: Path
    config: Any
    model: PreTrainedModel
    reference: PreTrainedModel | None
    peft: Any
    support: Support
    data: Prepared
    encoder: Encoder
    max_length_tokens: int
    rewards: Rewards | None = None
    """The rewards of sampled answers, for methods that sample."""
    attention: AttentionChoice | None = None
    """The attention kernel that was measured and taken, where the run chose one."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that model and data share."""
        return self.encoder.tokenizer

    @property
    def rewarded(self) -> Rewarded | None:
        """The rewards of greedy answers to held-out rows, in total and per component."""
        rewards = self.rewards
        if rewards is None:
            return None
        longest = int(getattr(self.config, "max_new_tokens", 0) or self.config.max_completion_length)
        size = {"batch_size": self.score_batch} if self.score_batch else {}
        return lambda model, examples, kept=None: rewards.of_greedy(model, examples, longest, kept=kept, **size)

    @property
    def score_batch(self) -> int | None:
        """Rows that are scored together: those of an evaluation, so that scoring needs no more memory than training.

        None, which is as many as is fast, for a model so small that its memory does not matter.
        """
        # Under ZeRO-3 a parameter is empty outside a step.
        size = sum(int(getattr(each, "ds_numel", each.numel())) for each in self.model.parameters())
        return None if size <= _SMALL_PARAMETERS else int(self.config.per_device_eval_batch_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.config.process_index == 0)


def load(spec: RunSpec, run_dir: Path, *, resumed: bool = False) -> Loaded:
    """Everything that training needs: config, model, reference, tokens.

    Args:
        resumed: whether it goes on from a checkpoint.

    Raises:
        ConfigError: the spec cannot be run here.
        DataError: unusable rows.
    """
    method = get_method(str(spec.method["name"]))
    cpu_sharding.enable(spec)
    config = training_config(spec, method, run_dir, validates=row_sets.holds_out(spec.data, method))
    switch_off()  # which the config has set as the run's own setting says
    check_world(spec, config)
    set_threads(spec)
    declared = peft_method(spec.peft)
    support = make_support(spec, declared)
    encoder = make_encoder(spec.model)
    task = "SEQ_CLS" if method.head == "reward_model" else "CAUSAL_LM"
    peft = peft_config(spec, declared, support, encoder.tokenizer, task)
    fit = fitting(spec.data, method, config, position_limit(spec.model))
    # Data before weights: bad rows are found in seconds, without loading many gigabytes for nothing.
    dropped = DroppedRows(run_dir / rundir.DROPPED if config.process_index == 0 else None)
    rows = spec.run.score_rows or 0
    with phase("preparing rows"):
        data = prepare(spec.data, method, encoder, fit, seed=spec.seed, num_score_rows=rows, dropped=dropped)
    if getattr(config, "packing", False):
        config.max_length = data.fit.limit
    vllm_engine.limit_sequences(config, (data.train, data.held_out), data.fit.position_limit)
    require_steps(spec, method, data.train, config)
    with phase("loading the rewards"):
        rewards = make_rewards(spec, method, encoder)
    if rewards is not None:
        rewards.check(data.train, "the rows trained on")
        rewards.check(data.held_out, "the held-out rows")
    with phase("timing attention kernels"):
        spec, attention = attention_choice.settled(spec, run_dir, config, data.train, resumed=resumed)
    set_seed(spec.seed)
    with phase("loading the model"):
        model = ending_as(_policy(spec, method, declared, config), encoder)
    check_vocabulary(model, encoder.tokenizer)
    if method.samples:
        vllm_engine.end_answers(config, stop_ids(model, encoder.tokenizer))
    reach_experts(peft, model)
    if peft is not None and spec.model.new_tokens:
        train_rows(peft, model, encoder.tokenizer, spec.model.new_tokens)
    support.model_loaded(model)
    support.load_unquantised = partial(load_base, replace(spec, quantisation=UNQUANTISED), method, placed=False)
    # Loaded again here: by default a trainer would use the hub's weights, not those that this run starts from.
    with phase("loading the reference"):
        reference = make_reference(spec, method, encoder) if needs_reference(method, config, peft) else None
    found = (spec, method, run_dir, config, model, reference, peft, support, data, encoder, data.fit.limit)
    return Loaded(*found, rewards=rewards, attention=attention)


def _policy(spec: RunSpec, method: Method, declared: PeftMethod | None, config: Any) -> PreTrainedModel:
    """The model that trains; where FSDP can send its weights, the first process of each machine reads them for all.

    Raises:
        ConfigError: it cannot be loaded, or not as train.fsdp_config says.
    """
    load_it = partial(load_base, spec, method, trains=declared is None)
    asked, once = wanted(spec), False
    each_reads = why_each_reads(
        spec,
        is_adapter=resolved_source(spec.model.name_or_path).is_adapter,
        stored_quantised=stored_quantisation(spec.model) is not None,
        plain_start=starts_plain(declared, spec.peft),
    )
    if asked is not False and each_reads is None:
        model, once = load_once(lambda read: load_it(read=read), required=bool(asked))
    else:
        model = load_it()
    send(config, once)
    return model


def require_steps(spec: RunSpec, method: Method, train: Any, config: Any) -> None:
    """Make sure that the rows fill a batch, where rows that fill none are dropped.

    Raises:
        ConfigError: there would be no step.
    """
    if isinstance(train, Dataset):  # a stream has no end
        batch = BatchPlan.of(spec.train, config.world_size)
        method.epoch_steps(spec.method, spec.train, batch, len(train))


def make_rewards(spec: RunSpec, method: Method, encoder: Encoder) -> Rewards | None:
    """The rewards of sampled answers; None if the method samples none.

    Raises:
        ConfigError: a reward model or function that does not exist.
    """
    if not method.rewarded:
        return None
    with whole_weights():
        return Rewards(spec.method, encoder, {"trust_remote_code": spec.model.trust_remote_code})


def make_critic(spec: RunSpec, model: PreTrainedModel) -> Any:
    """The value model that the method's settings select.

    Raises:
        ConfigError: it cannot be loaded.
    """
    choice = str(spec.method.get("value_model") or "head")
    if choice == "head":
        return ValueHead(model.config.get_text_config().hidden_size)
    name = str(spec.method["reward_model"]) if choice == "reward_model" else choice
    dtype = "float32" if spec.holds_masters else spec.model.dtype  # the value network trains
    settings = ModelSettings(name_or_path=name, dtype=dtype, trust_remote_code=spec.model.trust_remote_code)
    with whole_weights():
        return ValueNetwork(
            load_model(settings, seed=spec.seed, device=spec.launch.device, head="reward_model").train()
        )


def make_teacher(spec: RunSpec, encoder: Encoder) -> PreTrainedModel:
    """The frozen teacher of a student.

    Raises:
        ConfigError: it cannot be loaded, or its vocabulary differs from the student's.
    """
    name = str(spec.method["teacher_model"])
    settings = ModelSettings(
        name_or_path=name,
        dtype=spec.model.dtype,
        attn_implementation=spec.model.attn_implementation,
        trust_remote_code=spec.model.trust_remote_code,
    )
    require_same_vocabulary(settings, spec, encoder, "method.teacher_model")
    placed = not shards_weights(spec.train)
    teacher = load_model(settings, seed=spec.seed, device=spec.launch.device, placed=placed)
    return teacher.requires_grad_(False).eval()


def make_reference(spec: RunSpec, method: Method, encoder: Encoder) -> PreTrainedModel:
    """The reference of a run: the model that `method.reference_model` names, else the run's starting model.

    Raises:
        ConfigError: it cannot be loaded, or its vocabulary differs from the policy's.
    """
    named = spec.method.get("reference_model")
    if not named:
        return load_base(spec, method)
    settings = as_saved(spec.model, str(named))
    require_same_vocabulary(settings, spec, encoder, "method.reference_model")
    return load_base(replace(spec, model=settings), method)


def require_same_vocabulary(settings: ModelSettings, spec: RunSpec, encoder: Encoder, key: str) -> None:
    """Make sure that another model's probabilities can be compared with those of the model that trains.

    Raises:
        ConfigError: it has another vocabulary.
    """
    if make_encoder(settings).tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
        name, mine = settings.name_or_path, spec.model.name_or_path
        what = f"{name} has another vocabulary than {mine}: their probabilities cannot be compared"
        raise ConfigError(Problem(key, what, "choose a model of the same family"))


def load_base(
    spec: RunSpec, method: Method, *, trains: bool = False, placed: bool = True, read: bool = True
) -> PreTrainedModel:
    """The starting model of a run, without its adapter.

    Args:
        trains: whether its own weights train: they are then read as exactly as they are stored.
        placed: whether it goes straight to its GPU, unless it is sharded.
        read: as `load_model`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    model = replace(spec.model, dtype="float32") if trains and spec.holds_masters else spec.model
    return load_model(
        model,
        seed=spec.seed,
        device=spec.launch.device,
        head=method.head,
        quantisation=spec.quantisation,
        shard_dtype=spec.shard_dtype,
        placed=placed and not shards_weights(spec.train),
        read=read,
    )


def set_threads(spec: RunSpec) -> None:
    """Use the spec's number of threads: floating-point sums depend on it bit for bit."""
    if spec.launch.num_threads:
        torch.set_num_threads(spec.launch.num_threads)
