"""The demo's embedded world: a broker, a simulated fleet, a live view."""
