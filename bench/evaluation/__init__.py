"""Protocols, ranking and metrics."""
