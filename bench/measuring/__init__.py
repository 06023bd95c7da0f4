"""Time, memory, energy and size, measured."""
