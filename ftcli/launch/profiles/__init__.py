"""The hardware profiles, one file each: what `hardware.type` may be.

A module in this folder that defines `PROFILE` declares the profile of its name; nothing else registers one. Beside it,
`configs/hardware` may have a choice that sets it.
"""
