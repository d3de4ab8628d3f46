"""Settings of our own groups that have an effect only beside others."""

from __future__ import annotations

from ftcli.settings.fields.field_row import HELD_OUT, Rows, read

_FOUR_BITS = "quantisation.type=nf4|nf4_double|fp4"

ROWS: Rows = {
    "data.mix_order": read(needs="data.mix=*"),
    "data.max_eval_rows": read(needs=f"{HELD_OUT}=true"),
    "data.split_seed": read(needs="data.eval_share>0"),
    "data.eval_group": read(needs="data.eval_share>0"),
    "data.shuffle_buffer_rows": read(needs="data.streaming=true"),
    "quantisation.compute_dtype": read(needs=_FOUR_BITS),
    "quantisation.skip_modules": read(needs=f"{_FOUR_BITS}|int8"),
    "quantisation.int8_threshold": read(needs="quantisation.type=int8"),
}
