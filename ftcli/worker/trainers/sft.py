"""TRL's SFT trainer, with a weight for each trained token."""

from __future__ import annotations

from trl.trainer.sft_trainer import SFTTrainer

from ftcli.worker.trainers.weighted_loss import WeighedTokens


class SftTrainer(WeighedTokens, SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning."""
