"""A world on this machine to try things on: the embedded broker, and a simulated fleet whose cars send events."""
