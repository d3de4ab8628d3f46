"""`judged`: the answers of two models, compared by a judge in both orders."""

from __future__ import annotations

from typing import Any

from ftcli.core.errors import ConfigError, InterruptedRun, Problem
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis import principles
from ftcli.synthesis.backend import BudgetSpent
from ftcli.synthesis.tasks import Judge, JudgeSettings
from ftcli.worker.inference.backends import backend_of
from ftcli.worker.inference.chat import settings_of
from ftcli.worker.inference.examples import ASKABLE, prompt_of
from ftcli.worker.inference.metrics import BATCH
from ftcli.worker.measures.held_out_rows import requested
from ftcli.worker.measures.judged import answers_of, compare
from ftcli.worker.measures.subjects import alone
from ftcli.worker.models.load import as_granted, make_encoder
from ftcli.worker.process.activity import phase
from ftcli.worker.process.command import one_answer


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Compare two models.

    Args:
        request: {"model", "against": runs or models, "data": rows with prompts, "rows": most rows, or None, "judge": a
            backend's settings, "principles": a file, or None, "max_new_tokens", "batch_size",
            "trust_remote_code": bool}.

    Returns:
        As `compare`, with "samples", each with its prompt, both answers and the verdict, and what the judge used.

    Raises:
        ConfigError: a model, judge or principle that cannot be used, or no verdict that could be read.
        DataError: unusable rows.
        InterruptedRun: the judge's budget is spent.
    """
    name = str(request["model"])
    encoder = make_encoder(as_granted(settings_of(name), request))
    examples = requested(request, encoder, ASKABLE, "--against").examples
    size, longest = request.get("batch_size") or BATCH, int(request["max_new_tokens"])
    # One after the other: both need not fit into memory.
    ours, theirs = (
        answers_of(alone(model, request), examples, longest, size) for model in (name, str(request["against"]))
    )
    chosen = principles.named(request.get("principles"))
    if request.get("principles") is None:
        chosen = tuple(each for each in chosen if each.name == "usefulness")
    backend = backend_of(BackendSettings(**request["judge"]), "--judge", request)
    judge = Judge(JudgeSettings(principles_each=len(chosen)), seed=0, principles=chosen)
    prompts = [prompt_of(each) for each in examples]
    try:
        with phase("judging"):
            found = compare(prompts, ours, theirs, judge, backend)
    except BudgetSpent as spent:
        raise InterruptedRun(Problem("--judge", f"stopped: {spent}")) from None
    if found["estimate"] is None:
        what = "no verdict of the judge could be read"
        raise ConfigError(Problem("--judge", what, "take a judge that answers A or B when it is asked to"))
    rows = zip(prompts, ours, theirs, found.pop("verdicts"), strict=True)
    samples = [dict(zip(("prompt", "answer", "against", "verdict"), each, strict=True)) for each in rows]
    return {**found, "judge": backend.about(), "samples": samples}


COMMAND = one_answer(evaluate, "comparing two models")
