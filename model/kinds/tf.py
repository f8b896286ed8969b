"""TensorFlow, imported once and late: it takes seconds, and ``--help`` must not wait for it."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from beam_jobs.errors import UserError

_loaded: dict[str, Any] = {}


def tensorflow(threads: int = 1) -> Any:
    """The tensorflow module, quiet.

    The first call of a process decides how many threads an operation may use: 1 when scoring, where blocks run in
    parallel and a block is too small to be worth splitting.
    """
    return _load(threads)["tensorflow"]


def keras(threads: int = 0) -> Any:
    """The keras module on the TensorFlow backend; ``threads`` as for :func:`tensorflow`, 0 = as many as cores."""
    modules = _load(threads)
    if "keras" not in modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras says: the exports are TensorFlow's
        import keras as module

        modules["keras"] = module
    return modules["keras"]


def _load(threads: int) -> dict[str, Any]:
    if "tensorflow" not in _loaded:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its rounding differs from machine to machine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TensorFlow's own imports
            try:
                import tensorflow as module
            except ModuleNotFoundError as error:
                raise UserError(
                    f"this needs TensorFlow, which is not installed ({error}): it trains, and scores versions that "
                    "have no network.npz; run pip install 'highbeam[train]', or train such a version again"
                ) from error
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        try:
            module.config.threading.set_intra_op_parallelism_threads(threads)
            module.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            pass  # somebody in this process has used TensorFlow already: theirs stays
        _loaded["tensorflow"] = module
    return _loaded
