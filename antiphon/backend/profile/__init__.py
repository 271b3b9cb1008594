"""Measures this machine with a job's own model, so that plans are costed by what it does."""
