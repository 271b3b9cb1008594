"""Arithmetic that both worlds need, on NumPy or torch arrays."""
