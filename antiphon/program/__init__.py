"""The coroutines: one for each role, written once and carried out by every world."""
