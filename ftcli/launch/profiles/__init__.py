"""The hardware profiles, one file each: what `hardware.type` may be.

A module in this folder that defines `PROFILE` declares a profile; it is registered nowhere else. A choice in
`configs/hardware` may set it.
"""
