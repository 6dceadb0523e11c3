"""Passes on the quantized graph: each takes a module and gives one that computes the same."""
