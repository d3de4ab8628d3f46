"""The settings that ftcli itself defines, group by group: type, default and documentation.

The text under a field is its documentation: `ftcli show GROUP` and the generated tables print it. The
fields of TrainingArguments and of the TRL and PEFT configs are read from the installed libraries (library_fields.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

HALF_PRECISION = ("bfloat16", "float16")
"""The types in which weights take two bytes."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Group `model`: which weights, and how they are loaded."""

    name_or_path: str = "builtin:tiny"
    """Hub id, local folder of a Hugging Face model, or an ftcli run (its directory, name or model/)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    init: Literal["pretrained", "random"] = "pretrained"
    """pretrained loads the weights; random keeps configuration and tokenizer and starts from fresh weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are held in; auto is float32 on CPU and bfloat16 on GPUs that have it."""
    attn_implementation: str = "auto"
    """Attention kernel: sdpa, eager, flex_attention, flash_attention_2, _3 or _4 (from their packages), or a kernel's
    hub id. auto is the newest flash attention that is installed and fits card and model, flex_attention for packed rows
    from 8192 tokens on a GPU, else sdpa, or eager for architectures that refuse it. Where several of them compute a
    run, it measures them when it starts and takes the fastest."""
    trust_remote_code: bool = False
    """Runs Python code shipped with the model; only granted on the command line with --trust-remote-code."""
    chat_template: str | None = None
    """Chat template in place of the tokenizer's own: a .jinja file, `chatml`, or the name of a template that TRL ships
    (llama3_1, qwen3, …). It is saved with the model, and everything that renders a conversation uses it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, such as {enable_thinking: false}. They are saved as defaults in the template; a
    row's own column `chat_template_kwargs` goes first."""
    new_tokens: list[str] | None = None
    """Tokens to add to the vocabulary. Their embeddings start as the mean of all others and are trained, with LoRA as
    well."""
    variant: Literal["base", "instruct"] | None = None
    """What a model's file says of it: base continues text, instruct was trained to answer; null is unknown."""
    thinking: bool | None = None
    """What a model's file says of it: whether it writes its reasoning before the answer."""
    has_template: bool | None = None
    """What a model's file says of it: whether its tokenizer has a chat template; null is unknown, taken for yes."""
    licence: str | None = None
    """What a model's file says of it: the licence of its weights, as its hub page names it."""
    shape: dict[str, Any] | None = None
    """The published architecture, so that planning needs no network; null reads it from a local config.json."""


def as_saved(model: ModelSettings, name_or_path: str, revision: str | None = None) -> ModelSettings:
    """How a model is loaded as the settings say, but another one: with its own weights, template and vocabulary."""
    own: dict[str, Any] = dict.fromkeys(("chat_template", "chat_template_kwargs", "new_tokens", *CARD))
    return replace(model, name_or_path=name_or_path, revision=revision, init="pretrained", **own)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Group `data`: which rows, and how they become tokens."""

    path: str | list[str] | None = "builtin:tiny"
    """Rows to train on: a file (json, jsonl, csv, tsv, txt, parquet, arrow, each also compressed), a folder, a glob, a
    URL (s3://, gs://, https://, …) or a hub id, or a list of them, read in order as one set; builtin:tiny is the
    built-in set for the method's task, builtin:NAME a particular one."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    subset: str | None = None
    """Configuration of a hub set, or a folder inside the path."""
    split: str | None = None
    """Files of a hub set or folder to train on; null is train where there is one, else all."""
    mix: dict[str, Any] | None = None
    """Several named sets in place of path, each with its path, share_of_set, share_of_mix, rows or repeat."""
    mix_order: Literal["interleave", "concatenate"] = "interleave"
    """interleave spreads each set evenly over the mix; concatenate puts one set after another."""
    eval_path: str | list[str] | None = None
    """Rows to validate on, like path; excludes eval_share."""
    eval_share: float = 0.0
    """Share of the rows held out for validation, drawn by split_seed."""
    split_seed: int | None = None
    """Draws the rows of eval_share; null is the run's seed. Set it, so that runs with different seeds hold out, and
    measure, the same rows."""
    near_duplicates: float | None = None
    """Report rows, and held-out rows, that have at least this share of their text in common with a training row: 0.8,
    say. Needs `pip install 'ftcli[near-duplicates]'`; null looks for equal rows only."""
    eval_group: str | None = None
    """Column whose equal values stay together, all trained on or all held out (a document, a user, a template)."""
    format: str = "auto"
    """Row format (see `ftcli list format`); auto recognises it from the first rows."""
    delimiter: str = "auto"
    """Delimiter of CSV and TSV files: comma, semicolon, tab, pipe or the character itself; auto recognises it from the
    header and the first records."""
    columns: dict[str, str] | None = None
    """Canonical column name: its name in the file; a name that the format does not read is an error."""
    roles: dict[str, str] | None = None
    """Role of each speaker by name in the file: {customer: user, agent: assistant}."""
    margin_column: str | None = None
    """Column with the margin by which the chosen answer should score higher (method=reward); null is no margin."""
    trained_turns: Literal["all", "last", "unroll"] = "all"
    """all trains every assistant turn, last only the last one of a conversation. unroll makes each trained turn a
    training example of its own, which all does by itself where the chat template rewrites earlier turns."""
    template: Literal["auto", "none"] = "auto"
    """How pairs, preferences and prompts of plain text are read: auto reads them as turns and renders them with the
    tokenizer's chat template, as the model will be served, if there is one; none leaves them bare text."""
    max_bad_share: float = 0.0
    """Share of unusable rows that a run may skip; a larger share stops it before the weights are loaded."""
    max_length_tokens: int | Literal["auto"] | None = "auto"
    """Maximum row length in tokens; auto fits 99 % of the rows, or all if the longest is at most twice as long, within
    the model's limit (pretrain: blocks of 1024)."""
    overflow: Literal["auto", "drop", "error", "truncate_left", "truncate_right", "split"] = "auto"
    """What happens to longer rows; auto drops and counts them, and splits them for pretrain."""
    max_rows: int | None = None
    """Use only this many rows, the first ones (of each set)."""
    max_eval_rows: int | None = None
    """Validate on only this many rows, the first ones."""
    streaming: bool = False
    """Read and tokenise rows during training, without storing them; needs train.max_steps."""
    shuffle_buffer_rows: int = 10_000
    """Rows in the shuffle buffer of streaming, which draws by seed; 1 keeps their order."""


@dataclass(frozen=True, kw_only=True)
class SetSettings:
    """One entry of `data.mix`: where its rows are, how they are read, and how many of them the mix takes."""

    path: str | list[str]
    """Like data.path."""
    revision: str | None = None
    """Like data.revision."""
    subset: str | None = None
    """Like data.subset."""
    split: str | None = None
    """Like data.split."""
    format: str = "auto"
    """Like data.format."""
    delimiter: str = "auto"
    """Like data.delimiter."""
    columns: dict[str, str] | None = None
    """Like data.columns."""
    roles: dict[str, str] | None = None
    """Like data.roles."""
    margin_column: str | None = None
    """Like data.margin_column."""
    trained_turns: Literal["all", "last", "unroll"] = "all"
    """Like data.trained_turns."""
    template: Literal["auto", "none"] = "auto"
    """Like data.template."""
    share_of_set: float | None = None
    """This share of the set's own rows, drawn by seed."""
    rows: int | None = None
    """This many of the set's own rows, drawn by seed."""
    repeat: float = 1.0
    """How often the rows taken from the set occur in one epoch; 1.5 repeats every second row, drawn by seed."""
    share_of_mix: float | None = None
    """Share of the mix's rows that come from this set, drawn by seed from its own."""


@dataclass(frozen=True, kw_only=True)
class QuantisationSettings:
    """Group `quantisation`: how the frozen base weights are stored."""

    type: Literal["none", "nf4", "nf4_double", "fp4", "int8"] = "none"
    """none keeps the weights as they are stored (in model.dtype, or quantised already); the others quantise them with
    bitsandbytes while loading."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type of 4-bit weights; auto is bfloat16 on GPUs that have it, float16 on older ones, and
    float32 on CPU."""
    skip_modules: list[str] | None = None
    """Further modules to leave unquantised, by name suffix; the output head always is."""
    int8_threshold: float = 6.0
    """Magnitude above which int8 multiplies a feature in 16 bits (LLM.int8, arXiv:2208.07339, section 3.2)."""


@dataclass(frozen=True, kw_only=True)
class HardwareSettings:
    """Group `hardware`: where the run computes."""

    type: str = field(default="auto", metadata={"declared_in": "ftcli.launch.profiles"})
    """auto takes one GPU when there is one, else the CPU. multi_gpu starts one process a GPU, each with a copy of the
    model; fsdp, zero2, zero3 and their _offload forms start as many and shard it; multi_node and slurm do so on
    several machines (`ftcli list hardware`)."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu computes on CPU processes what a profile for several GPUs computes on those: for trying it out."""
    num_processes: int | None = None
    """Processes to start, on each machine; null is one, or one a GPU under a profile for several."""
    gpu: str | None = None
    """Plans for a card that is not here: t4, l4, rtx4090, a100-80, h100, … or its memory, 24GiB; null is this
    machine's."""
    num_threads: int | None = None
    """CPU threads of each process; null is the machine's cores divided among the processes."""
    max_restarts: int = 0
    """How often the processes of a run are started again from the newest checkpoint when one is lost; needs several."""
    step_timeout_seconds: int | None = 1800
    """How long a process may make no progress: a longer step ends the run with exit code 8, which names the process and
    where it hangs. Loading, tokenising, evaluating and saving may take as long as they work; null waits for ever."""
    node_type: str = field(default="multi_gpu", metadata={"declared_in": "ftcli.launch.profiles"})
    """With several machines: the profile of each, multi_gpu or one that shards over all processes of the run."""
    num_nodes: int | None = None
    """Machines of the run; null reads the variables of Slurm or torchrun."""
    node_rank: int | None = None
    """Which of the machines this is, from 0, which creates the run directory; null reads the environment."""
    rendezvous: str | None = None
    """HOST:PORT of the first machine, where all meet; null reads the environment."""
    account: str | None = None
    """Account that a Slurm job is charged to."""
    partition: str | None = None
    """Partition that a Slurm job runs in."""
    time_limit: str | int | None = None
    """Time limit of a Slurm job, as Slurm writes it: 30 (minutes), 12:00:00, 2-00."""
    container: str | None = None
    """Apptainer image, with ftcli in it, that a Slurm job runs in; null is the environment that submits it."""
    stop_seconds: int = 300
    """How long before its time limit a Slurm job is asked to save and stop; long enough for a step and a checkpoint."""
    max_requeues: int = 100
    """How often a Slurm job that was stopped is queued again, to go on from its newest checkpoint."""
    sbatch: dict[str, Any] | None = None
    """Further options of sbatch: {qos: high, constraint: a100, mem: 200G}."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Group `run`: where the run is written and what it measures besides the loss."""

    dir: str | None = None
    """Run directory; null is runs/NAME/TIME."""
    name: str | None = None
    """Name of the run; null is METHOD-MODEL."""
    score_rows: int | None = None
    """Held-out rows scored before and after training; null is 256 for models below 10M parameters, else 0."""
    loss_before: bool | None = None
    """Whether the held-out loss is measured before training too, in one pass over the held-out rows; null is where
    train.eval_strategy or run.score_rows measures during or after it."""
    early_stopping_patience: int | None = None
    """Evaluations without improvement after which the run stops; needs train.load_best_model_at_end."""
    retention: str | None = None
    """What the run shall not forget, measured before and after training: builtin:general (facts, arithmetic,
    instructions, refusals, language), or a file of JSON lines with kind, prompt and completion, or kind and text; null
    is nothing, or builtin:general where run.gate is set."""
    gate: dict[str, Any] | None = None
    """Fails a finished run that lost more than this, in nats a token of the right answers: {retention: -0.02} over all
    kinds, {facts: -0.05} of one. The model is saved all the same."""
    background_save: bool | None = None
    """Whether checkpoints are written while training goes on, out of a copy in the host's memory; null is on a GPU, in
    one process, where one takes 2 GiB and fits twice into free memory."""
    trackers: list[str] | str | None = None
    """Who keeps the curve beside metrics.jsonl, in the run's folder trackers/: tensorboard, wandb, trackio or mlflow,
    each of its own package, or several in a list (docs/trackers.md)."""
    tracking: dict[str, Any] | None = None
    """Settings of trackers by name: {wandb: {project: support, mode: online}}."""
    profile: bool = False
    """Whether the run measures where its seconds go, from the import of its libraries to its result: forward, backward,
    optimiser, generation, rewards, waiting and the rest, told in result and report, with a trace for chrome://tracing
    or Perfetto. On a GPU it waits for the card between these parts, which costs time (docs/runs.md)."""
    profile_steps: int | None = None
    """How many steps of a profiled run, after the first ten, have each of their operations traced: 3, say."""


CARD = ("variant", "thinking", "has_template", "licence", "shape")
"""The settings of `model` that describe the published model, and so only the one that is named beside them."""

OWN_GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "quantisation": QuantisationSettings,
    "hardware": HardwareSettings,
    "run": RunSettings,
}

GROUPS = ("method", "model", "data", "peft", "quantisation", "hardware", "train")

PLACES = {"model": "name_or_path", "data": "path"}
"""The setting that names a place, of a group whose choices only have names for some."""

MODEL_KEYS = frozenset(
    {
        *("model.name_or_path", "method.reward_model", "method.value_model", "method.teacher_model"),
        "method.reference_model",
        *("method.judge.model", "judge.model", "generator.model", "peft.shadow_model"),
    }
)
"""Settings that name a model: a run, a folder, a hub id, or a name at an endpoint."""
_FILES = {"make.constitution", "make.examples", "make.labelled"}
PATH_KEYS = (
    frozenset(
        {
            *("data.path", "data.eval_path", "run.dir", "run.retention", "model.chat_template", "hardware.container"),
            "method.judge_constitution",
        }
    )
    | MODEL_KEYS
    | _FILES
)
_STAGE = re.compile(r"^stages\.[^.]+\.")
_MIXED_DELIMITER = re.compile(r"data\.mix\.[^.]+\.delimiter")
_MIXED_PATH = re.compile(r"data\.mix\.[^.]+\.path")


def is_functions_key(key: str) -> bool:
    """Whether a setting names functions with their weights; its keys may be files."""
    return _STAGE.sub("", key) == "method.reward_functions"


def is_rows_key(key: str) -> bool:
    """Whether a setting says where rows are; it may list several places."""
    setting = _STAGE.sub("", key)
    return setting in ("data.path", "data.eval_path") or _MIXED_PATH.fullmatch(setting) is not None


def is_path_key(key: str) -> bool:
    """Whether a setting's value is a path or a name that is taken literally from the command line."""
    setting = _STAGE.sub("", key)
    ready = setting == "model" != key  # the run or model that replaces a stage
    return ready or setting in PATH_KEYS or _MIXED_PATH.fullmatch(setting) is not None


def is_delimiter_key(key: str) -> bool:
    """Whether a setting's value is a delimiter, which is taken literally from the command line."""
    setting = _STAGE.sub("", key)
    return setting == "data.delimiter" or _MIXED_DELIMITER.fullmatch(setting) is not None
