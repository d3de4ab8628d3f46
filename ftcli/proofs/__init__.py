"""Proof that an imported configuration trains on the same tokens: the same rows in the other tool and in ftcli."""
