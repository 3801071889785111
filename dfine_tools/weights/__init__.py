"""Weights between the formats of the authors, Hugging Face and this project."""
