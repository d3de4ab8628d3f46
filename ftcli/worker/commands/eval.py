"""`eval`: held-out loss and metric of a finished run, before and after training, on its held-out rows or on others."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PrinterCallback

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.data import row_sets
from ftcli.methods import Method, get_method
from ftcli.methods.method import rows_to_score
from ftcli.runs import rundir
from ftcli.runs.measured_attention import as_measured
from ftcli.settings.groups import ModelSettings, as_saved
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.inference import metrics
from ftcli.worker.inference.held_out import at_its_length
from ftcli.worker.models.answer_ends import ending_as
from ftcli.worker.models.load import as_granted, load_model, load_trained, make_encoder, position_limit
from ftcli.worker.process.command import one_answer
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import fitting
from ftcli.worker.training.library_configs import training_config
from ftcli.worker.training.load import Loaded, make_rewards, make_teacher, set_threads
from ftcli.worker.training.measure import measure
from ftcli.worker.training.trainer import make_trainer
from ftcli.worker.tuners.support import Support

SCHEMA = 1


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Measure a run's model and its starting model, in one process.

    Args:
        request: {"run": run directory or name, "data": file or None for the run's own held-out rows, "rows": the
            most rows, or None, "score_rows": how many of them are scored, or None for what the run set, "model" and
            "revision": another model to measure instead of both, or None, "trust_remote_code": bool}.

    Returns:
        {"schema", "run", "method", "data", "rows", "before", "after"}, both with `eval_loss` and `score`; for another
        model "model" and "measured" instead.

    Raises:
        ConfigError: no such run, no model in it yet, or no held-out rows.
        DataError: unusable rows.
    """
    run_dir = rundir.require_run(request["run"], "RUN")
    stored = as_measured(RunSpec.load(run_dir / rundir.SPEC), run_dir)
    method = get_method(str(stored.method["name"]))
    spec = _with_derived(at_its_length(_requested(stored, method, request), run_dir), run_dir)
    if not row_sets.holds_out(spec.data, method):
        raise ConfigError(Problem(str(run_dir), "the run has no held-out rows", "set data.eval_path=FILE"))
    set_threads(spec)
    trained = as_saved(spec.model, str(run_dir))
    encoder = make_encoder(trained)
    if request.get("model"):
        return _of_another(request, spec, method, run_dir, encoder)
    run = _loaded(spec, method, run_dir, encoder, trained, None)
    about, measured_after = _about(run), _measured(run)
    if hasattr(run.model, "peft_config"):
        # With its adapter disabled it is the starting model. A quantised base alone would be refused by the Trainer.
        with run.model.disable_adapter():
            measured_before = _measured(run)
    else:
        data = run.data
        del run  # its model and reference leave the memory before the next one is loaded
        measured_before = _measured(_loaded(spec, method, run_dir, encoder, spec.model, data, starting=True))
    return {**about, "before": measured_before, "after": measured_after}


def _of_another(
    request: dict[str, Any], spec: RunSpec, method: Method, run_dir: Path, encoder: Encoder
) -> dict[str, Any]:
    """The run's metric for another model on the run's held-out rows."""
    name = str(request["model"])
    model = as_saved(spec.model, name, request.get("revision"))
    loaded = _loaded(replace(spec, model=model), method, run_dir, encoder, model, None)
    return {**_about(loaded), "model": name, "measured": _measured(loaded)}


def _about(run: Loaded) -> dict[str, Any]:
    ledger = run.data.held_out_ledger
    assert ledger is not None
    about = {"schema": SCHEMA, "run": str(run.run_dir), "method": run.method.name}
    return {**about, "data": ledger.path, "rows": ledger.rows_kept}


def _requested(spec: RunSpec, method: Method, request: dict[str, Any]) -> RunSpec:
    """The run's spec for one process on this machine, with the requested rows."""
    device = "cuda" if spec.launch.device == "cuda" and torch.cuda.is_available() else "cpu"
    launch = replace(spec.launch, num_processes=1, device=device)
    data, rows = spec.data, request.get("rows")
    if request.get("data"):
        data = replace(data, eval_path=request["data"], eval_share=0.0)
    if rows:
        data = replace(data, max_eval_rows=rows)
    run = replace(spec.run, score_rows=rows_to_score(spec, method, request.get("score_rows"), rows))
    model = spec.model if device == spec.launch.device else replace(spec.model, dtype="auto")
    model = as_granted(model, request)
    return replace(spec, launch=launch, data=data, run=run, model=model)


def _with_derived(spec: RunSpec, run_dir: Path) -> RunSpec:
    """The spec with what the method derived from the rows that the run trained on; those that are measured differ."""
    try:
        derived = foreign_files.read_json(run_dir / rundir.RESULT)["derived"]
    except (OSError, ValueError, LookupError, TypeError):
        return spec
    return replace(spec, method={**spec.method, **derived})


def _loaded(
    spec: RunSpec,
    method: Method,
    run_dir: Path,
    encoder: Encoder,
    which: ModelSettings,
    data: Prepared | None,
    *,
    starting: bool = False,
) -> Loaded:
    """A model and what it is measured on.

    Args:
        starting: whether it is the one that the run starts from, with which it is compared.
    """
    off: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    # Nothing is sent: a trainer makes its repositories at the hub, and asks its trackers, as soon as it is made.
    off |= {"push_to_hub": False, "report_to": "none", "log_completions": False, "log_completions_hub_repo": None}
    off["use_vllm"] = False  # which may not be here; a few answers need no engine
    if spec.method.get("precompute_ref_log_probs"):
        off["precompute_ref_log_probs"] = False  # they are needed once, and then with the policy's
    if spec.launch.device == "cpu":
        off |= {"bf16": False, "fp16": False, "tf32": None, "dataloader_pin_memory": False}
    config = training_config(spec, method, run_dir, validates=True, **off)
    fit = fitting(spec.data, method, config, position_limit(which))
    data = data or prepare(
        spec.data, method, encoder, fit, seed=spec.seed, num_score_rows=spec.run.score_rows or 0, training=False
    )
    if getattr(config, "packing", False):
        config.max_length = data.fit.limit
    how: dict[str, Any] = {"seed": spec.seed, "device": spec.launch.device, "head": method.head}
    how["quantisation"] = spec.quantisation
    model = ending_as((load_model if starting else load_trained)(which, **how), encoder)
    reference = None
    if "reference" in method.roles and not method.samples:
        if starting:
            reference = copy.copy(model)  # its own reference: another module with the same weights
        elif which.name_or_path != str(run_dir) or not hasattr(model, "peft_config"):
            reference = load_model(spec.model, **how)
    found = (spec, method, run_dir, config, model, reference, None, Support({}), data, encoder, data.fit.limit)
    return Loaded(*found, rewards=make_rewards(spec, method, encoder))


def _measured(run: Loaded) -> dict[str, Any]:
    held_out = run.data.held_out
    assert held_out is not None
    if run.rewarded is not None:
        with metrics.undisturbed(), metrics.evaluating(run.model):
            counts = run.rewarded(run.model, run.data.score_examples)
        return {"eval_loss": None, "score": metrics.shares(counts)}
    teacher = {"teacher": make_teacher(run.spec, run.encoder)} if "teacher" in run.method.roles else {}
    switched_off = run.reference is None and "reference" in run.method.roles and not run.method.samples
    trainer = make_trainer(
        run.method,
        run.config,
        run.model,
        run.tokenizer,
        train=held_out,
        held_out=held_out,
        reference=_placeholder() if switched_off else run.reference,
        **teacher,
    )
    if switched_off:
        trainer.ref_model = None
    trainer.remove_callback(PrinterCallback)
    return measure(run, trainer)


def _placeholder() -> Any:
    """A reference of a few hundred parameters, for a trainer whose reference is the model without its adapter.

    Given none, TRL would take a copy of the trained adapter for it, since the model comes with one.
    """
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=8, head_dim=8, **sizes))


COMMAND = one_answer(evaluate, "evaluating")
