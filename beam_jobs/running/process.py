"""What a process that runs a pipeline is set up with."""

from __future__ import annotations

import ctypes
import logging
import sys
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import one_line
from beam_jobs.terminal import options

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 512 << 20


class _Printable(logging.Formatter):
    """One line a record, and of a stack trace, that no terminal obeys, whatever data and brokers say."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(one_line, super().formatException(ei).split("\n")))


def configure_logging(parsed: PipelineOptions) -> None:
    """Warnings on stderr, or with ``--verbose`` all there is."""
    verbose = parsed.view_as(options.ReportOptions).verbose
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Printable("%(levelname)s %(message)s"))
    # RunInference warns of it on every machine without its optional model manager.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in str(record.msg))
    if not verbose:
        # Runners log the stack trace of what a worker raised, and raise it again: the command says it in one line.
        # gcsio is asked by Beam only, and warns where an account may not see a bucket's own settings.
        for noisy in ("apache_beam.runners", "apache_beam.utils.subprocess_server", "apache_beam.io.gcp.gcsio"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)  # Dataflow's logs refusals as critical


def keep_memory() -> None:
    """Lets glibc keep what blocks free: given back and asked for again, each page costs a fault (10 % of a job)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _KEPT_BYTES // 8)
