"""Gatehouse on one machine: what `make run` and `make token` do. Nothing of it goes into the container image."""
