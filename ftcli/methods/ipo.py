"""Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036, eq. 17): a squared loss that stops at a margin.

The margin between the answers' log-ratios is driven to 1/(2β), β being the paper's τ, and no further, so repeated pairs
do not keep increasing it as they do under DPO's loss. Log-ratios are means over the tokens of an answer, as in TRL: the
paper does not say, and its authors told TRL that they used that form.
"""

from dataclasses import replace

from ftcli.methods.dpo import METHOD as DPO

METHOD = replace(
    DPO,
    name="ipo",
    summary="Identity preference optimisation: DPO with a fixed target margin, for few or repeated pairs.",
    fixed={"loss_type": ["ipo"]},
    without=("loss_weights", "discopop_tau", "label_smoothing", "use_weighting"),
    limits={name: limit for name, limit in DPO.limits.items() if name not in ("loss_type", "label_smoothing")},
    check=None,
    paper="Azar et al. 2023, arXiv:2310.12036",
)
