"""Files of arrays that others wrote: nothing is unpickled, nothing fills the memory, all errors are one line."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.errors import UserError
from model import arrays
from model.arrays import read_arrays
from model.kinds.autoencoder.network import Network
from tests.unit.model.kinds.autoencoder.test_network import network


class Harmful:
    def __reduce__(self) -> Any:
        return os._exit, (7,)


def header(shape: tuple[int, ...]) -> bytes:
    """An .npy file that announces more than it has."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def zipped(path: Path, data: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mean.npy", data)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "network.npz"
    np.savez(path, mean=np.array([Harmful()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(path)
    np.save(tmp_path / "mean.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    path.write_bytes((tmp_path / "mean.npy").read_bytes())
    with pytest.raises(ValueError, match="not a zip file"):
        read_arrays(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.npz"
    monkeypatch.setattr(arrays, "MAX_BYTES", 1 << 20)
    zipped(path, header((1 << 19,)) + bytes(1 << 21), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="1,048,576 at most"):
        read_arrays(path)


@pytest.mark.parametrize("data", [header((1 << 40,)), header((1 << 62, 1 << 62)), header((-1,)), b"", b"\x93NUMPY\1\0"])
def test_an_array_that_is_not_there_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    zipped(tmp_path / "network.npz", data)
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(tmp_path / "network.npz")


NAMES = ["mean", "spread", "residual_spread", "cross", "deviation_spread", "elu", "limits", "kernel_0", "bias_1"]
ARRAYS = [
    np.float32(1),
    np.zeros(0),
    np.zeros((2, 2)),
    np.array(["x"]),
    np.zeros((3, 7), np.float32),
    np.arange(7),
    np.array([None == 1]),
]


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(NAMES), array=st.sampled_from([None, *ARRAYS]), cut=st.integers(0, 400))
def test_a_network_of_other_arrays_is_refused_or_works(
    tmp_path_factory: pytest.TempPathFactory, name: str, array: Any, cut: int
) -> None:
    path = tmp_path_factory.mktemp("network") / "network.npz"
    network().save(path)
    kept = {key: value for key, value in read_arrays(path).items() if key != name}
    np.savez(path, **kept, **({} if array is None else {name: array}))
    path.write_bytes(path.read_bytes()[: -cut or None])
    with contextlib.suppress(UserError), np.errstate(all="ignore"):
        loaded = Network.load(path)
        assert loaded.score(np.zeros((3, 7), np.float32)).shape == (3,)
