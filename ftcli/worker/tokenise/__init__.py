"""Rows → tokens and loss masks, compared with what will be served; stored, packed, streamed."""
