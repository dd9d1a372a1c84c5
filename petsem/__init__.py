"""Petsem: a replicated secret store and token authority."""

__version__ = "0.1.0"
