"""Figures that commands and experiments draw: pure functions from arrays to images."""
