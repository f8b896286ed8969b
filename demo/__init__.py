"""The demo's embedded world: a broker, a simulated fleet, a live view."""

import beam_jobs  # noqa: F401 - first: how a command is interrupted while it is imported
