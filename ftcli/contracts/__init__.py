"""What a declaration has to keep, so that checks, plans and runs can rely on it: of ftcli's own and of plugins'."""
