"""What people look at: progress, tables, curves, traces; and the JSON that programs read."""
