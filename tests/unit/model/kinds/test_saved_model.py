"""A graph that does more than calculate is refused before anything of it runs, wherever in it that stands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.errors import UserError
from model.kinds import tf
from model.kinds.autoencoder.graph import FOLDER, SavedGraph
from model.kinds.saved_model import MAX_BYTES, check_saved_model

Graph = Callable[[Any, Any, Path], Any]  # tensorflow, features [n, 2], a file to write -> [n]


def write(t: Any, x: Any, out: Path) -> Any:
    with t.control_dependencies([t.io.write_file(str(out), "there")]):
        return t.reduce_sum(x, 1)


def read(t: Any, x: Any, out: Path) -> Any:
    return t.reduce_sum(x, 1) + t.cast(t.strings.length(t.io.read_file("/etc/hostname")), t.float32)


def call_python(t: Any, x: Any, out: Path) -> Any:
    return t.py_function(lambda v: v[:, 0], [x], t.float32)


def call_numpy(t: Any, x: Any, out: Path) -> Any:
    return t.numpy_function(lambda v: v[:, 0], [x], t.float32)


def in_a_branch(t: Any, x: Any, out: Path) -> Any:
    return t.cond(t.reduce_sum(x) > 1e9, lambda: write(t, x, out), lambda: t.reduce_sum(x, 1))


def in_a_nested_function(t: Any, x: Any, out: Path) -> Any:
    inner = t.function(lambda v: write(t, v, out))
    outer = t.function(lambda v: inner(v) * 2)
    return outer(x)


def in_a_loop(t: Any, x: Any, out: Path) -> Any:
    return t.while_loop(lambda i, s: i < 1, lambda i, s: (i + 1, s + write(t, x, out)), (0, t.reduce_sum(x, 1)))[1]


def save(t: Any, x: Any, out: Path) -> Any:
    with t.control_dependencies(
        [t.raw_ops.SaveV2(prefix=str(out), tensor_names=["x"], shape_and_slices=[""], tensors=[x])]
    ):
        return t.reduce_sum(x, 1)


def print_to_a_file(t: Any, x: Any, out: Path) -> Any:
    with t.control_dependencies([t.print(x, output_stream=f"file://{out}")]):
        return t.reduce_sum(x, 1)


def export(graph: Graph, folder: Path, out: Path) -> None:
    tensorflow = tf.tensorflow()

    class Module(tensorflow.Module):  # type: ignore[misc, name-defined]
        @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, 2], tensorflow.float32, name="features")])
        def serve(self, features: Any) -> Any:
            return {"score": graph(tensorflow, features, out), "expected": features, "error": features}

    module = Module()
    module.weight = tensorflow.Variable(2.0)
    tensorflow.saved_model.save(module, str(folder), signatures={"serve": module.serve})


@pytest.mark.parametrize(
    ("graph", "op"),
    [
        (write, "WriteFile"),
        (read, "ReadFile"),
        (call_python, "EagerPyFunc"),
        (call_numpy, "PyFunc"),
        (in_a_branch, "WriteFile"),
        (in_a_nested_function, "WriteFile"),
        (in_a_loop, "WriteFile"),
        (save, "SaveV2"),
        (print_to_a_file, "PrintV2|StringFormat"),
    ],
)
def test_what_does_more_than_calculate_is_named_and_not_run(tmp_path: Path, graph: Graph, op: str) -> None:
    out = tmp_path / "written"
    export(graph, tmp_path / FOLDER, out)
    with pytest.raises(UserError, match=f"operation '({op})' of node .* use a version from where you trust it"):
        SavedGraph(tmp_path / FOLDER)
    assert not list(tmp_path.glob("written*"))


def test_what_only_calculates_is_loaded(tmp_path: Path) -> None:
    export(lambda t, x, out: t.cond(t.reduce_sum(x) > 0, lambda: x[:, 0], lambda: x[:, 1]), tmp_path / FOLDER, tmp_path)
    graph = SavedGraph(tmp_path / FOLDER)
    assert graph.score(tf.tensorflow().constant([[1.0, 2.0]]).numpy()).tolist() == [1.0]


def changed(folder: Path, change: Callable[[Any], None]) -> Path:
    """A graph that only calculates, and what ``change`` makes of its file."""
    export(lambda t, x, out: t.reduce_sum(x, 1), folder, folder)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    change(saved)
    path.write_bytes(saved.SerializeToString())
    return folder


def restored_by_an_alias(saved: Any) -> None:
    for function in saved.meta_graphs[0].graph_def.library.function:
        function.attr["api_implements"].s = b"same"


def twice(saved: Any) -> None:
    library = saved.meta_graphs[0].graph_def.library
    library.function.append(library.function[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda saved: saved.meta_graphs[0].graph_def.node.add(name="\x1b[31m", op="Écrire\x1b]0;"),
            r"'Écrire\\x1b\]0;'",
        ),
        (lambda saved: saved.meta_graphs[0].ClearField("object_graph_def"), "not one graph as TensorFlow 2 exports"),
        (lambda saved: saved.meta_graphs.append(saved.meta_graphs[0]), "not one graph as TensorFlow 2 exports"),
        (restored_by_an_alias, "stands for others"),
        (twice, "is there twice"),
    ],
)
def test_other_ways_around_the_list(tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_saved_model(changed(tmp_path / FOLDER, change))


def test_what_saves_a_version_is_allowed_only_where_nothing_calls_it(tmp_path: Path) -> None:
    def call_it(saved: Any) -> None:
        graph = saved.meta_graphs[0].graph_def
        saving = next(f.signature.name for f in graph.library.function if "traced_save" in f.signature.name)
        scoring = next(f for f in graph.library.function if "traced" not in f.signature.name)
        scoring.node_def.add(name="n", op="PartitionedCall").attr["f"].func.name = saving

    check_saved_model(changed(tmp_path / "as_exported", lambda saved: None))
    with pytest.raises(UserError, match=r"operation '(SaveV2|MergeV2|ShardedF|Static|String)"):
        check_saved_model(changed(tmp_path / "called", call_it))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "No such file"),
        ({"saved_model.pb": b"no graph"}, "can't be loaded"),
        ({"saved_model.pb": bytes.fromhex("12ff")}, "can't be loaded"),
        ({"saved_model.pb": b"\x12" * (MAX_BYTES + 1)}, "more than"),
        ({"saved_model.pb": b"", "saved_model.pbtxt": b""}, r"saved_model\.pbtxt: only saved_model\.pb is loaded"),
        ({"saved_model.pb": b"", "saved_model.cpb": b""}, r"saved_model\.cpb: only saved_model\.pb is loaded"),
    ],
)
def test_files_that_are_no_saved_model(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        check_saved_model(tmp_path)


def test_the_check_does_not_import_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from model.kinds.autoencoder.graph import SavedGraph\n"
        f"try: SavedGraph(Path({str(tmp_path)!r}))\n"
        "except Exception as error: sys.exit(type(error).__name__ != 'UserError' or 'tensorflow' in sys.modules)\n"
        "sys.exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
