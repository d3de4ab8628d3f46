"""Several runs as one: what they vary, running them side by side, searching, and comparing what came of them."""
