"""Who may open the files of a run's, pipeline's or adapter's folder: every other module asks one of these.

Such a folder may be a stranger's. Each place here either checks what it reads as a stranger's, or reads what the front
half checked before it started a worker.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tools.house_rules import Violation
from tools.source_tree import House, Module

READERS: Mapping[str, Mapping[str, str]] = {
    "RunSpec.load": {
        "build.gate": "the gate: every value checked, every grant from this command line",
        "build.inspection": "nothing acts on it; it is shown, with what would need a flag",
        "runs.provenance": "nothing acts on it; its seed and learning rates are printed",
        "build.derive": "only the name of a run that is a starting model, which is then made a plain word",
        "launch.nodes": "what the first node wrote; the command that joins it passes it through the gate",
        "worker.training.run": "written by the command that started the worker, after the gate",
        "worker.inference.chat": "its command passed the run through the gate; its permission to run code is left out",
        "worker.inference.examples": "its command passed the run through the gate; only whether text is turns",
        "worker.measures.subjects": "its command passed the run through the gate; only how its base is quantised",
        "worker.measures.held_out_rows": "its command passed the run through the gate; the rows that it held out",
        "worker.commands.merge": "its command passed the run through the gate; how its base is quantised, and its card",
        "worker.inference.parity.replay": "its command passed the run through the gate; its permission to run code too",
        "worker.commands.eval": "its command passed the run through the gate; its permission to run code is left out",
    },
    "RunSpec.from_json": {
        "settings.run_spec": "its form is checked",
        "worker.commands.data": "composed and checked by the command that started the worker",
    },
    "SynthesisSpec.load": {
        "build.inspection": "nothing acts on it; it is shown, with what would need a flag",
        "build.verification": "nothing acts on it; only whether it is whole",
        "pipelines.moved_stages": "only where its files lie is written anew; it is compared as before",
        "pipelines.pipeline_dir": "compared with a spec that was composed and checked",
        "recipes.pipeline_lock": "compared with the stage that the recipe has",
        "pipelines.stage_loop": "compared with the spec that replaces it",
        "worker.commands.synthesise": "written by the command that started the worker, after its checks",
    },
    '"spec.json"': {
        "runs.rundir": "the name",
        "settings.run_spec": "the name, in messages",
        "config.shorthand": "the name, to know a folder by",
    },
    '"pipeline.json"': {"runs.rundir": "the name; its form is checked", "config.shorthand": "the name"},
    '"make.json"': {"synthesis.synthesis_spec": "the name; its form is checked"},
    '"items.jsonl"': {
        "synthesis.journal": "the name; a line that is none is dropped",
        "worker.commands.synthesise": "the name, in a message",
    },
    '"pushes.json"': {"runs.rundir": "the name; publishing.push_record checks its form, and nothing acts on it"},
    '"adapter_config.json"': {
        "models.sources": "the name; what PEFT would import is refused",
        "config.shorthand": "the name, to know a folder by",
        "worker.training.save": "written there",
        "runs.checkpoint_kind": "the name, which a checkpoint must have; it is not opened",
    },
    "torch.load": {
        "worker.training.checkpoint": "weights_only",
        "worker.distributed.sharded": "weights_only",
        "worker.distributed.exact_state": "weights_only",
    },
    "pickle": {},
}
"""What is read → who may read it, and why that is safe; modules without the name of the package."""


def one_gate(house: House) -> Iterator[Violation]:
    """Files of a run's, pipeline's or adapter's folder are opened in the places that READERS lists, and no other."""
    for module in house.modules.values():
        own = module.name.partition(".")[2]
        for what, line in _read(module):
            readers = READERS[what]
            if own not in readers:
                fix = f"ask one of {', '.join(readers)}, or say in tools/reader_rules.py why this place is safe"
                yield Violation(house.where(module.name, line), f"{what} outside the gate", fix)


def pickles_are_closed(house: House) -> Iterator[Violation]:
    """torch.load is called with weights_only=True, whatever the default of the installed torch."""
    for module in house.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                flags = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if flags.get("weights_only") != "True":
                    where = house.where(module.name, node.lineno)
                    yield Violation(where, "torch.load may run code of the file", "pass weights_only=True")


def _read(module: Module) -> Iterator[tuple[str, int]]:
    """Each thing in READERS that a module reads, with its line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and f'"{node.value}"' in READERS:
            yield f'"{node.value}"', node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in READERS:
            yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(name.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib") for name in names):
                yield "pickle", node.lineno
