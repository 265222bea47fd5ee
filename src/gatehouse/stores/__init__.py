"""Artifact stores that bytes stream through: one interface (base), and a module for each kind of store.

Modules import their store's library themselves, so the libraries of stores that nobody uses are neither installed nor
loaded.
"""
