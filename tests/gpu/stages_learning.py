"""Stages about what is learnt: weights that move, float16 with a scaled loss, gradients of packed rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ftcli.methods import get_method
from tests.gpu import rows
from tests.gpu.bench import Bench, Findings, lines_of

_MOVED = 0.95
"""Share of the weights that a default rate moves in few steps where what trains is held in float32."""
_PACKED_LENGTHS = ([7, 5, 1, 19], [32], [20, 3])
_EQUAL_GRADIENTS = 1e-5
_ROTARY = ("llama", "qwen3", "mistral", "phi3")
_LATEST = 16384
_EQUAL_ANGLES = 1e-5


def _shared(bench: Bench, steps: int) -> list[str]:
    return [
        "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1", f"train.max_steps={steps}",
        "train.logging_steps=1",
        "train.eval_strategy=no", "run.score_rows=0", f"model={bench.model('small')}", "data.eval_path=null",
    ]  # fmt: skip


def _data(bench: Bench, method: str) -> str:
    length = bench.either(512, 64)
    make = rows.preferences if method == "dpo" else rows.conversations
    return f"data.path={make(bench.folder, 64, length)}"


def share_moved(start: Path, run: Path) -> float:
    """The share of the weights of the layers that the newest checkpoint holds otherwise than the starting model.

    Without the embeddings, of which only the rows of tokens in the data have a gradient.
    """
    from safetensors.torch import load_file

    checkpoint = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    trained: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for weights, folder in ((trained, checkpoint), (before, start)):
        for file in folder.glob("*.safetensors"):
            weights |= load_file(file)
    names = [name for name in trained if ".layers." in name and name in before]
    moved = sum(int((trained[name].float() != before[name].float()).sum()) for name in names)
    return moved / sum(trained[name].numel() for name in names)


def moves(bench: Bench, found: Findings) -> None:
    """Full SFT and DPO at their default rates, as a user starts them: which share of the weights moves."""
    steps = bench.either(20, 8)

    def tuned(method: str) -> tuple[Path, dict[str, Any]]:
        words = [f"method={method}", "peft=none", _data(bench, method), f"train.save_steps={steps}"]
        return bench.train(f"moves-{method}", *words, *_shared(bench, steps))

    for method, (run, result) in zip(
        ("sft", "dpo"), bench.together([partial(tuned, "sft"), partial(tuned, "dpo")]), strict=True
    ):
        share = share_moved(bench.model("small"), run)
        found.figures[method] = {
            "share_moved": round(share, 4),
            "rate": get_method(method).training.full.at(1_000_000_000).value,
            "steps": steps,
            "loss_first": result["loss_first"],
            "loss_last": result["loss_last"],
        }
        found.expect(share > _MOVED, f"{method} moves more than {_MOVED:.0%} of the weights ({share:.1%})")
        found.expect(result["loss_last"] < result["loss_first"], f"the loss of {method} falls")
    first = found.figures["dpo"]["loss_first"]
    found.expect(abs(first - math.log(2)) < 5e-3, f"DPO begins at ln 2, where policy and reference agree ({first})")


def fp16(bench: Bench, found: Findings) -> None:
    """Training in float16 with a scaled loss, as a card without bfloat16 is given it: full, and an adapter."""
    steps = bench.either(30, 8)
    # Without a GPU ftcli refuses float16, so that the rehearsal runs the same in float32.
    scaled = ["train.fp16=true"] if bench.on_card else []
    held = {"none": [], "lora": ["model.dtype=float16"] if bench.on_card else []}

    def tuned(peft: str) -> tuple[Path, dict[str, Any]]:
        words = [f"peft={peft}", _data(bench, "sft"), f"train.save_steps={steps}", *scaled, *held[peft]]
        return bench.train(f"fp16-{peft}", "method=sft", *words, *_shared(bench, steps))

    for peft, (run, result) in zip(held, bench.together([partial(tuned, peft) for peft in held]), strict=True):
        losses = [line["loss"] for line in lines_of(run)]
        found.figures[peft] = {"loss_first": losses[0], "loss_last": losses[-1], "steps": len(losses)}
        found.expect(all(map(math.isfinite, losses)), f"every loss of peft={peft} is a number")
        found.expect(result["loss_last"] < result["loss_first"], f"the loss of peft={peft} falls")
    share = share_moved(bench.model("small"), bench.folder / "runs" / "fp16-none")
    found.figures["none"]["share_moved"] = round(share, 4)
    found.expect(share > _MOVED, f"full training moves more than {_MOVED:.0%} of the weights ({share:.1%})")
    refused = bench.ftcli(
        "check", "peft=none", "model.dtype=float16", *bench.hardware, f"model={bench.model('small')}",
        *(["train.fp16=false"] if bench.on_card else []), expect=None,
    )  # fmt: skip
    found.figures["float16_alone"] = refused.code
    found.expect(refused.code == 2, "weights in float16 that would train alone are refused")


def packed(bench: Bench, found: Findings) -> None:
    """Packed documents have the gradients that each has alone, with every attention kernel of torch."""
    for attention in ("flex_attention", "sdpa", "eager"):
        if attention == "flex_attention" and not bench.on_card:
            found.unjudged.append("flex attention, which has no backward pass on a CPU")
            continue
        difference = largest_difference(attention, bench.device)
        found.figures[attention] = difference
        found.expect(difference < _EQUAL_GRADIENTS, f"{attention}: gradients differ by {difference:.1e}")


def largest_difference(attention: str, device: str) -> float:
    """The largest difference between gradients of packed documents and of each alone, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ftcli.worker.tokenise.collate import PackedBlocks

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=160, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(device, torch.float32)
    documents = [[torch.randint(3, 160, (length,)).tolist() for length in block] for block in _PACKED_LENGTHS]
    ids = [[token for document in block for token in document] for block in documents]
    blocks = [
        {"input_ids": row, "labels": row, "seq_lengths": lengths}
        for row, lengths in zip(ids, _PACKED_LENGTHS, strict=True)
    ]
    alone = [
        {"input_ids": torch.tensor([document]), "labels": torch.tensor([document])}
        for block in documents
        for document in block
        if len(document) > 1
    ]
    loss: Callable[..., Any] = torch.nn.functional.cross_entropy

    def gradients(batches: list[dict[str, Any]]) -> dict[str, Any]:
        model.zero_grad()
        for batch in batches:
            given = {name: value.to(device) for name, value in batch.items() if name != "attention_mask"}
            labels = given.pop("labels")[:, 1:].reshape(-1)
            logits = model(**given, use_cache=False).logits[:, :-1].flatten(0, 1)
            loss(logits, labels, reduction="sum").div(80).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    together, apart = gradients([PackedBlocks(pad_token_id=0)(blocks)]), gradients(alone)
    return max(float((together[name] - apart[name]).abs().max()) for name in apart)


def positions(bench: Bench, found: Findings) -> None:
    """Rotary angles of late positions are exact in a run, which allows TF32 for float32 products where it can.

    A library that makes them by a matrix product rounds positions above 2,048 on some cards (transformers issue 48428).
    """
    plan = bench.ftcli("plan", *bench.hardware, f"model={bench.model('small')}", _data(bench, "sft"), "--json").data()
    allowed = any(note["key"] == "train.tf32" and note["value"] for note in plan["notes"])
    found.figures["tf32_in_a_run"] = allowed
    for name in _ROTARY:
        under = {tf32: rotary_difference(name, bench.device, tf32=tf32) for tf32 in (False, bench.on_card)}
        found.figures[name] = {"plain": under[False], "under_tf32": under[bench.on_card]}
        wrong = f"{name}: cosines of late positions are {under[allowed]:.1e} off in a run"
        found.expect(under[allowed] < _EQUAL_ANGLES, wrong)


def rotary_difference(name: str, device: str, *, tf32: bool) -> float:
    """The largest error of a family's cosines up to position 16,383, for two rows, beside float64."""
    from importlib import import_module

    import torch
    from transformers import AutoConfig
    from transformers.utils.import_utils import enable_tf32

    config = AutoConfig.for_model(name)
    config.max_position_embeddings = _LATEST
    module = import_module(f"transformers.models.{name}.modeling_{name}")
    rotary = next(cls for cls_name, cls in vars(module).items() if cls_name.endswith("RotaryEmbedding"))(config).to(
        device
    )
    if tf32:
        enable_tf32(True)
    try:
        rows = torch.arange(_LATEST, device=device).expand(2, -1)
        cosines, _ = rotary(torch.zeros(1, device=device), rows)
    finally:
        if tf32:
            enable_tf32(False)
    # Float32 rounds the angle itself, so that the truth starts from the same product.
    angles = (rows[0, :, None].float() * rotary.inv_freq.float()).double()
    return float((cosines[..., : angles.shape[-1]].double() - angles.cos()).abs().max())
