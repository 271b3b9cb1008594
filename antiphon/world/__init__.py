"""What a program may ask of the world around it, and how its coroutines are driven."""
