"""Measuring both lowerings of a workload."""
