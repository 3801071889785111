"""The training loop: optimizer, averaging, checkpoints, launch."""
