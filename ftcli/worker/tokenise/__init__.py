"""Rows → tokens and loss masks, checked against what will be served; stored, packed or streamed."""
