"""The real world: torch, processes, sockets and files. Only this floor imports torch."""
