"""Decisions, one published system a file: pure functions that turn facts into choices."""
