"""How long and how much: what a computation needs, and what that costs on a device."""
