"""The documentation's tables of measured results, read from benchmarks/results, where the scripts write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import table

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def result(name: str, command: str) -> dict[str, Any]:
    """The saved result of a script.

    Raises:
        ConfigError: the script has not been run.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise ConfigError(Problem(f"benchmarks/results/{name}.json", "is missing", command))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def measured_with(versions: Mapping[str, str]) -> str:
    """A sentence on what a result was measured on."""
    libraries = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    named = ", ".join(f"{name} {versions[name]}" for name in libraries if name in versions)
    machine = f"{versions['cores']} CPU cores ({versions['machine']}), Python {versions['python']}"
    return f"Measured on {machine}, {named}.\n"


def adapter_results() -> str:
    """What each adapter learned on the built-in model, and what it cost."""
    found = result("adapters", "python benchmarks/adapters.py --save")
    rows = [
        (
            f"`{each['choice']}`",
            f"{each['trainable']:,}",
            f"{each['learning_rate']:g}",
            _from_to(each["exact_match"], ".1%"),
            _from_to(each["eval_loss"], ".2f"),
            f"{each['seconds']:.0f}",
            f"{each['peak_gib']:.2f}",
        )
        for each in found["adapters"]
    ]
    head = ("Choose", "Trainable", "Learning rate", "Held-out score", "Held-out loss", "Seconds", "Peak GiB")
    return f"{measured_with(found['versions'])}\n{table(head, rows)}"


def unseen_kinds() -> str:
    """How well instruction types that were left out of training are answered, before and after it."""
    found = result("adapters", "python benchmarks/adapters.py --save")
    rows = [
        (
            ", ".join(each["kinds"]),
            str(each["exact_match"]["rows"]),
            _from_to(each["exact_match"], ".1%"),
            _from_to(each["eval_loss"], ".2f"),
        )
        for each in found["unseen"]
    ]
    return table(("Types left out", "Questions", "Exact match", "Loss"), rows)


def _from_to(pair: Mapping[str, Any], form: str) -> str:
    return f"{pair['before']:{form}} → {pair['after']:{form}}"


def preference_results() -> str:
    """What each preference method did to the built-in model."""
    found = result("preferences", "python benchmarks/preferences.py --save")
    rows = []
    for name in dict.fromkeys(each["name"] for each in found["methods"]):
        own = [each for each in found["methods"] if each["name"] == name]
        scores, sampled = [each["score"] for each in own], [each["after"] for each in own if "after" in each]
        rows.append(
            (
                f"`{name}`",
                f"{own[0]['learning_rate']:g}",
                f"{_all(scores, 'before')} → {_all(scores, 'after')}",
                _all(scores, "reward_accuracy"),
                _all(sampled, "polite"),
                _all(sampled, "right"),
            )
        )
    before = found["before"]
    head = ("Method", "Learning rate", "Held-out pairs", "Implicit reward", "Polite answers", "Right answers")
    start = f"Before: {before['polite']:.1%} of sampled answers polite, {before['right']:.1%} right.\n"
    return f"{measured_with(found['versions'])}\n{start}\n{table(head, rows)}"


def repeated_pairs() -> str:
    """What many passes over the same few pairs do."""
    found = result("preferences", "python benchmarks/preferences.py --save")
    rows = [
        (
            f"`{each['name']}`",
            _from_to(each["score"], ".1%"),
            _from_to(each["eval_loss"], ".3f"),
            f"{each['margin_of_trained']['middle']:.2f} → {each['margin_of_trained']['last']:.2f}",
            f"{each['after']['polite']:.1%}",
            f"{each['after']['right']:.1%}",
        )
        for each in found["repeated"]
    ]
    head = ("Method", "Held-out pairs", "Held-out loss", "Margin of the trained pairs", "Polite", "Right")
    return f"{found['few']} pairs, {found['many']} passes.\n\n{table(head, rows)}"


def rlhf() -> str:
    """What the RLHF pipeline did to the built-in model, policy by policy."""
    found = result("rlhf", "python benchmarks/rlhf.py --save")
    names = {"found": "the starting model", "sft": "after `sft`", "ppo": "after `ppo`"}
    rows = []
    for policy, name in names.items():
        rewards = ", ".join(f"{run['measure']['values'][policy]:.2f}" for run in found["runs"])
        sampled = [run["sampled"][policy] for run in found["runs"]]
        rows.append((name, rewards, _all(sampled, "polite"), _all(sampled, "right")))
    head = ("Policy", "Mean reward", "Polite answers", "Right answers")
    prompts = found["runs"][0]["measure"]["rows"]
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in found["runs"])
    about = f"{len(found['runs'])} seeds, {prompts} held-out prompts, {seconds} seconds of training in all stages.\n"
    return f"{measured_with(found['versions'])}\n{about}\n{table(head, rows)}"


def feedback() -> str:
    """What AI feedback did to the built-in model, stage by stage."""
    found = result("feedback", "python benchmarks/feedback.py --save")
    parts = [measured_with(found["versions"])]
    for row in found["pipelines"]:
        names = list(next(iter(row["measures"].values())))
        rows = [
            ("the starting model" if stage == "found" else f"after `{stage}`", *(f"{each[name]:.1%}" for name in names))
            for stage, each in row["measures"].items()
        ]
        about = f"`{row['command']}`, {row['seconds']} seconds in all"
        if agreement := row["agreement"]:
            about += f"; the judge agrees with {agreement['share']:.1%} of {agreement['pairs']} labelled pairs"
        parts += [f"{about}.\n", table(("Policy", *(f"{name.capitalize()} answers" for name in names)), rows)]
    return "\n".join(parts)


def ppo_beside_trl() -> str:
    """Our PPO compared with the last one in TRL: reward reached, and where the time of an episode goes."""
    found = result("ppo", "python benchmarks/ppo.py --save")
    episodes = found["request"]["episodes"]
    parts = ("generation", "scoring", "update", "other")
    rows = []
    for tool, name in (("ftcli", "ftcli"), ("trl", f"TRL {found['theirs']['trl']}")):
        runs = found["runs"][tool]
        rewards = [run["reward"] for run in runs]
        times = [1000 * median(run[part] for run in runs) / episodes for part in ("seconds", *parts)]
        reached = f"{mean(rewards):.3f} ± {stdev(rewards):.3f}"
        rows.append((name, reached, *(f"{each:.1f}" for each in times)))
    head = ("", f"Reward after {episodes:,} episodes", "Milliseconds per episode", *parts)
    ratio = f"TRL's time divided by ours, median of {len(found['runs']['trl'])} seeds: {found['ratio']:.2f}"
    without = f"counting generation, scoring and update only: {found['ratio_without_other']:.2f}"
    return f"{measured_with(found['versions'])}\n{ratio}; {without}.\n\n{table(head, rows)}"


def reference_free() -> str:
    """Our reference-free trainers compared with those of TRL."""
    found = result("reference_free", "python benchmarks/reference_free.py --save")
    rows = [
        (
            f"`{name}`",
            f"{each['ours']['mib']:.0f} MiB",
            f"{each['theirs']['mib']:.0f} MiB",
            f"{each['ours']['seconds']:.2f}",
            f"{each['theirs']['seconds']:.2f}",
            f"{each['seconds_ratio']:.2f}",
        )
        for name, each in found["methods"].items()
    ]
    head = ("Method", "Memory, ours", "TRL's", "Seconds per step, ours", "TRL's", "Ratio")
    tokens = found["prompt_tokens"] + found["answer_tokens"]
    work = f"A step of {found['batch']} pairs of {tokens} tokens, a vocabulary of {found['vocabulary']:,} tokens.\n"
    return f"{measured_with(found['versions'])}\n{work}\n{table(head, rows)}"


def real_models() -> str:
    """What training did to real small models, run by run."""
    found = result("real_models", "python benchmarks/real_models.py MODELS DATA --save")
    names = {"smollm2": "SmolLM2 135M Instruct", "gemma3": "Gemma 3 270M base"}
    rows, notes = [], []
    for run in found["runs"]:
        score, loss = run["score"], run["eval_loss"]
        measured = f"{score['name'].replace('_', ' ')} {_from_to(score, '.1%')}" if score else ""
        kept = f"{run['rows']}, {run['eval_rows']}"
        shown = "" if loss["before"] is None else _from_to(loss, ".3f")
        rows.append((f"`{run['name']}`", names[run["model"]], kept, f"{run['steps']}", shown, measured))
        if merged := run.get("merged"):
            notes.append(
                f"Merged, the model of `{run['name']}` has a held-out loss of {merged['eval_loss']:.3f}, and"
                f" {merged['same_answers']} of {merged['prompts']} greedy answers are those of the adapter.\n"
            )
    head = ("Run", "Model", "Rows, held out", "Steps", "Held-out loss", "Held-out score")
    typed = "".join(f"ftcli {run['command']}\n" for run in found["runs"])
    commands = f"Typed, with the model, the rows and the run's folder besides:\n\n```text\n{typed}```\n"
    return "\n".join([measured_with(found["versions"]), table(head, rows), *notes, commands])


def default_structures() -> str:
    """Old defaults against new ones on the built-in model: passes, rows of a step, and what follows from them."""
    found = result("defaults", "OMP_NUM_THREADS=1 python benchmarks/defaults.py FOLDER --save")
    rows = []
    for each in found["methods"]:
        arms = [each[arm] for arm in ("old", "new")]
        passes = [f"{arm['structure']['epochs']} × {arm['structure']['rows']}" for arm in arms]
        values = [f"{mean(arm['values']):.3f}" for arm in arms]
        between = "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**each["difference"])
        rows.append((f"`{each['name']}`", each["measure"], *passes, *values, between, each["verdict"]))
    head = ("Method", "Held-out measure", "Old: passes × rows", "New", "Old", "New", "Difference", "New is")
    return f"{measured_with(found['versions'])}\n{table(head, rows)}"


def real_defaults() -> str:
    """What the defaults alone did to a real small model."""
    found = result("real_defaults", "python benchmarks/real_defaults.py MODELS DATA --save")
    rows = []
    for case in found["cases"]:
        improved, runs = case["improved"], case["runs"]
        if "first_half" in improved:
            values = [improved["first_half"], improved["second_half"]]
            measure = "reward of the training answers, first and second half of the steps"
        else:
            losses = [run["eval_loss"] for run in runs]
            values = [mean(loss[side] for loss in losses) for side in ("before", "after")]
            measure = "held-out loss, before and after"
        by = f"{improved['mean']:+.3f} ± {improved['half_width']:.3f}"
        kept = f"{case['rows']}", f"{case['steps']}", f"{case['seeds']}"
        rows.append((f"`{case['name']}`", *kept, measure, *(f"{value:.3f}" for value in values), by))
    head = ("Run", "Rows", "Steps", "Seeds", "Measure", "First", "Then", "Better by")
    typed = "".join(f"ftcli {case['command']}\n" for case in found["cases"])
    commands = f"Typed, with the model, the rows, the seed and the run's folder besides:\n\n```text\n{typed}```\n"
    return "\n".join([measured_with(found["versions"]), table(head, rows), commands])


def _all(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """A share for each seed."""
    return ", ".join(f"{row[name]:.1%}" for row in rows if name in row)


TEMPLATE_USES = ("answers found by", "Modelfile")
"""What is measured of a chat template beside the rows that it trains."""


def measured_templates() -> Mapping[str, Any]:
    """What is measured of each chat template that TRL ships."""
    return result("template_families", "python -m tests.worker.template_families")


def template_uses() -> str:
    """How answers are found in what a template writes, and which of Ollama's templates writes the same."""
    families: dict[tuple[str, ...], list[str]] = {}
    for name, cells in measured_templates()["templates"].items():
        if not cells[TEMPLATE_USES[0]].startswith("refused"):
            families.setdefault(tuple(cells[each] for each in TEMPLATE_USES), []).append(f"`{name}`")
    rows = [(", ".join(names), *cells) for cells, names in sorted(families.items())]
    return table(("Templates", *TEMPLATE_USES), rows)


def template_families() -> str:
    """Which rows each family of chat templates trains, and why not the others."""
    found = measured_templates()
    templates: dict[str, dict[str, str]] = {
        name: {column: cell for column, cell in cells.items() if column not in TEMPLATE_USES}
        for name, cells in found["templates"].items()
    }
    families: dict[tuple[str, ...], list[str]] = {}
    for name, verdicts in templates.items():
        families.setdefault(tuple(verdicts.values()), []).append(f"`{name}`")
    reasons: list[str] = []
    rows = []
    for cells, names in families.items():
        marked = []
        for cell in cells:
            verdict, _, reason = cell.partition(": ")
            if reason and reason not in reasons:
                reasons.append(reason)
            marked.append(f"{verdict} ({reasons.index(reason) + 1})" if reason else verdict)
        rows.append((", ".join(names), *marked))
    columns = [f"`{name.split()[-1]}` in the text" if "<" in name else name for name in next(iter(templates.values()))]
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{table(('Templates', *columns), rows)}\nRefused because, with {versions}:\n\n{notes}\n"


REGIONS: dict[str, Callable[[], str]] = {
    "template-families": template_families,
    "template-uses": template_uses,
    "real-models": real_models,
    "real-defaults": real_defaults,
    "default-structures": default_structures,
    "adapter-results": adapter_results,
    "unseen-kinds": unseen_kinds,
    "preference-results": preference_results,
    "repeated-pairs": repeated_pairs,
    "reference-free": reference_free,
    "rlhf-results": rlhf,
    "feedback-results": feedback,
    "ppo-beside-trl": ppo_beside_trl,
}
"""The generated regions of measured results."""
