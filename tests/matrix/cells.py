"""The cells of docs/matrix.md: method × adapter × quantisation, each a few words on the command line."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("pretrain", "sft", "instruct", "dpo", "reward")
QUANTISATIONS = ("none", "nf4", "nf4_double", "fp4", "int8")
# Choice and, behind it, the settings that make another form of it.
PEFTS = (
    "none", "freeze", "lora", "qlora", "dora", "rslora", "pissa", "pissa peft.init_lora_weights=pissa_niter_4",
    "lora peft.init_lora_weights=olora", "loraplus", "adalora", "vera", "oft", "ia3", "adapter",
    "adapter peft.placement=pfeiffer", "prefix peft.prefix_projection=false", "prefix", "p_tuning",
    "p_tuning peft.encoder_reparameterization_type=LSTM", "p_tuning peft.deep=true", "prompt",
)  # fmt: skip
# Tuners without a choice of their own, in one method each: PEFT's further ones.
OTHERS = (
    "BOFT", "C3A", "CARTRIDGE", "DELORA", "DEFT", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "LILY",
    "LN_TUNING", "LOHA", "LOKR", "MISS", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHADOW", "SHIRA",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "WAVEFT", "BEFT", "ADAMSS",
)  # fmt: skip
# Fields without which a tuner cannot start on the small model.
NEEDS = {
    "TRAINABLE_TOKENS": "peft.token_indices=[5,6,7]",
    "CARTRIDGE": "peft.num_virtual_tokens=8",
    "C3A": "peft.block_size=16",
    "ROAD": "peft.group_size=16",
    "VBLORA": "peft.vector_length=16 peft.num_vectors=32",
}

# Parameters that a tuner declares trainable and never gives a gradient, by a part of their name.
IDLE = {"SHADOW": "layers.3.shadow_update"}  # what the last layer hands on, no layer takes

SMALL = (
    "model=tiny", "data.max_rows=24", "data.max_eval_rows=4", "train.max_steps=4", "train.save_strategy=steps",
    "train.save_steps=2", "train.logging_steps=1", "train.eval_strategy=no", "run.score_rows=0",
    "train.per_device_train_batch_size=2", "hardware.num_threads=1", "data.max_length_tokens=64",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One combination."""

    method: str
    peft: str
    quantisation: str

    @property
    def words(self) -> tuple[str, ...]:
        """What a user would type, with what keeps it small."""
        choice, *more = self.peft.split(" ")
        small = [word for word in SMALL if not (self.method == "pretrain" and word.startswith("data.max_rows"))]
        rate = ("train.learning_rate=1e-2",) if choice not in ("none", "freeze") else ("train.learning_rate=1e-3",)
        return (f"method={self.method}", f"peft={choice}", *more, f"quantisation={self.quantisation}", *rate, *small)

    def __str__(self) -> str:
        return f"{self.method}-{self.peft.replace(' peft.', '-')}-{self.quantisation}"


CELLS = [Cell(method, peft, kind) for method in METHODS for peft in PEFTS for kind in QUANTISATIONS]
# Preference methods beside DPO, with one adapter of each form and each quantisation of the base.
FORMS = (
    ("none", "none"), ("lora", "none"), ("lora", "int8"), ("qlora", "nf4_double"), ("pissa", "none"), ("ia3", "fp4"),
    ("adapter", "none"), ("prefix peft.prefix_projection=false", "none"), ("p_tuning", "none"), ("prompt", "nf4"),
)  # fmt: skip
PREFERENCE_CELLS = [
    Cell(method, peft, kind) for method in ("ipo", "kto", "orpo", "cpo", "simpo") for peft, kind in FORMS
]
OTHER_CELLS = [Cell("sft", f"other peft.type={kind} {NEEDS.get(kind, '')}".strip(), "none") for kind in OTHERS]

# The sample of `make test`: each adapter, each quantisation and each method at least once.
SPREAD = [
    Cell(METHODS[index % len(METHODS)], peft, "none" if index % 2 else QUANTISATIONS[index % len(QUANTISATIONS)])
    for index, peft in enumerate(PEFTS)
] + [
    Cell("kto", "lora", "none"), Cell("orpo", "prompt", "nf4"), Cell("simpo", "none", "none"),
    Cell("reward", "lora", "int8"), Cell("dpo", "qlora", "nf4"), Cell("dpo", "adapter", "nf4_double"),
]  # fmt: skip
