"""Publishing a run: what of it is sent to a hub repository, checked before anything is sent, and the sending."""
