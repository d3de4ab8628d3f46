"""Rotary angles of late positions, which TF32 must not round."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.core import rotary_angles

# The lines of transformers 5.17 and of 5.20.
BY_PRODUCT = "            freqs = (inv_freq_expanded @ position_ids_expanded).transpose(1, 2)\n"
BY_ELEMENT = "        freqs = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)\n"


@pytest.mark.parametrize(("text", "exact"), [(BY_PRODUCT, False), (BY_ELEMENT, True)])
def test_angles_by_a_matrix_product_are_not_exact_under_tf32(text, exact, tmp_path, monkeypatch):
    path = tmp_path / "models" / "llama" / "modeling_llama.py"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(rotary_angles, "package_folder", lambda _: tmp_path)
    assert rotary_angles.exact_under_tf32.__wrapped__() is exact


def test_the_installed_transformers_is_read() -> None:
    # of its modelling code, the line is where it is looked for: with another one, the answer would mean nothing
    folder = rotary_angles.package_folder("transformers")
    assert folder is not None
    text = Path(folder, "models", "llama", "modeling_llama.py").read_text(encoding="utf-8")
    assert ("position_ids[..., None].float() * self.inv_freq" in text) is rotary_angles.exact_under_tf32()
