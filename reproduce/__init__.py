"""Regenerates the tables and figures of the paper and compares them with its numbers."""
