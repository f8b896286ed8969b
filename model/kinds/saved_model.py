"""What a SavedModel would do, read from its file before TensorFlow loads it, and without TensorFlow.

A SavedModel is a program: its operations read and write files, call Python, open connections. Loading one runs parts of
it, scoring runs the rest. So every operation has to be on the list of those that only calculate, in the graph, in its
library of functions, and in whatever those call.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from beam_jobs.errors import UserError, one_line, shown

MAX_BYTES = 64 << 20  # of saved_model.pb; weights are in other files

CALCULATE = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool BatchMatMul
    BatchMatMulV2 BatchMatMulV3 BiasAdd BroadcastArgs BroadcastTo Bucketize Cast Ceil CheckNumerics ClipByValue
    Concat ConcatV2 Const Conv2D Cos Cosh Cumprod Cumsum Diag DiagPart Div DivNoNan Einsum Elu Equal Erf Erfc Erfinv
    Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather
    GatherNd GatherV2 Greater GreaterEqual Identity IdentityN Inv InvertPermutation IsFinite IsInf IsNan L2Loss
    LeakyRelu Less LessEqual Lgamma Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart
    MatrixDiag MatrixDiagPart MatrixDiagPartV3 MatrixDiagV3 Max MaxPool Maximum Mean Min Minimum Mod Mul MulNoNan
    Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault Pow PreventGradient Prod
    Range Rank RealDiv Reciprocal Relu Relu6 Reshape ReverseV2 Rint Round Rsqrt Select SelectV2 Selu Shape ShapeN
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze
    StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose TruncateDiv TruncateMod Unpack
    UnsortedSegmentSum Where Xdivy Xlog1py Xlogy ZerosLike AssignVariableOp DisableCopyOnRead ReadVariableOp
    ResourceGather VarHandleOp VarIsInitializedOp VariableShape Case If PartitionedCall StatefulPartitionedCall
    StatelessCase StatelessIf StatelessWhile While
    """.split()  # noqa: SIM905 - a column of 190 strings is harder to read
)
"""Operations that calculate from their inputs, hold the model's variables or call other functions of its library."""

SAVE = frozenset({"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin"})
"""What every export adds for TensorFlow to save and restore it, and nothing that is loaded here may call."""

# Message -> field -> number, and "text" or a message of these, * for many; the entries of a map are messages.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "MetaGraph*")},
    "MetaGraph": {"graph": (2, "Graph"), "objects": (7, "Objects")},
    "Objects": {"functions": (2, "Entry*"), "nodes": (1, "Object*")},
    "Entry": {"key": (1, "text")},
    "Object": {"function": (6, "Concrete"), "bare": (8, "Bare")},
    "Concrete": {"names": (1, "text*")},
    "Bare": {"name": (1, "text")},
    "Graph": {"nodes": (1, "Node*"), "library": (2, "Library")},
    "Library": {"functions": (1, "Function*"), "gradients": (2, "Gradient*")},
    "Gradient": {"function": (1, "text"), "gradient": (2, "text")},
    "Function": {"signature": (1, "Signature"), "nodes": (3, "Node*"), "attributes": (5, "Attribute*")},
    "Signature": {"name": (1, "text")},
    "Node": {"name": (1, "text"), "op": (2, "text"), "attributes": (5, "Attribute*")},
    "Attribute": {"key": (1, "text"), "value": (2, "Value")},
    "Value": {"list": (1, "List"), "function": (10, "Called")},
    "List": {"functions": (9, "Called*")},
    "Called": {"name": (1, "text"), "attributes": (2, "Attribute*")},
}


def check_saved_model(folder: Path) -> None:
    """Refuses a SavedModel that does more than calculate; nothing of it is run.

    Raises:
      UserError: naming the operation; or the file can't be read, or is larger than ``MAX_BYTES``.
    """
    others = sorted(path.name for path in folder.glob("saved_model.*") if path.name != "saved_model.pb")
    if others:
        raise UserError(f"{folder / others[0]}: only saved_model.pb is loaded; remove it, or train the model again")
    path = folder / "saved_model.pb"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES:,} bytes; train the model again")
        saved = _message("SavedModel").FromString(data)
    except (OSError, DecodeError) as error:
        raise UserError(f"{folder} can't be loaded ({one_line(error)}); train the model again") from error
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("objects"):
        raise UserError(f"{folder} can't be loaded (not one graph as TensorFlow 2 exports it); train the model again")
    _check(saved.meta_graphs[0], path)


def _check(graph: Any, path: Path) -> None:
    library = graph.graph.library
    functions = {function.signature.name: function for function in library.functions}
    if len(functions) < len(library.functions):
        raise UserError(f"{path}: a function of the graph is there twice; train the model again")
    loaded = _reachable(graph, functions)
    for name, function in functions.items():
        own = CALCULATE if name in loaded else CALCULATE | SAVE
        _check_nodes(function.nodes, own | functions.keys(), path)
        if any(each.key == "api_implements" for each in function.attributes):  # TensorFlow may swap such functions
            raise UserError(f"{path}: function {shown(name)} stands for others; train the model again")
    _check_nodes(graph.graph.nodes, CALCULATE | SAVE | functions.keys(), path)


def _check_nodes(nodes: Any, allowed: frozenset[str], path: Path) -> None:
    for node in nodes:
        if node.op not in allowed:
            raise UserError(
                f"{path}: operation {shown(node.op)} of node {shown(node.name)} may do more than calculate, and the "
                "graph was not loaded; use a version from where you trust it, or train the model again"
            )


def _reachable(graph: Any, functions: dict[str, Any]) -> set[str]:
    """The functions that loading or scoring may run: those of the objects, and what they call."""
    objects = graph.objects
    found = {entry.key for entry in objects.functions}
    for node in objects.nodes:
        found.update(node.function.names)
        found.add(node.bare.name)
    gradients = {each.function: each.gradient for each in graph.graph.library.gradients}
    waiting, seen = list(found), set(found)
    while waiting:
        name = waiting.pop()
        function = functions.get(name)
        if function is None:
            continue
        called = {gradients.get(name, "")}
        for node in function.nodes:
            called |= {node.op, *_called(node.attributes)}
        waiting += called - seen
        seen |= called
    return seen


def _called(attributes: Any) -> Iterator[str]:
    for attribute in attributes:
        value = attribute.value
        for called in ([value.function] if value.HasField("function") else [], value.list.functions):
            for each in called:
                yield each.name
                yield from _called(each.attributes)


@cache
def _message(name: str) -> Any:
    """The class of a message; its fields are numbered as TensorFlow's, and all others are skipped."""
    file = descriptor_pb2.FileDescriptorProto(name="saved_model.proto", package="highbeam", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for title, fields in _MESSAGES.items():
        message = file.message_type.add(name=title)
        for field, (number, kind) in fields.items():
            bare = kind.removesuffix("*")
            message.field.add(
                name=field,
                number=number,
                label=kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL,
                type=kinds.TYPE_STRING if bare == "text" else kinds.TYPE_MESSAGE,
                type_name=None if bare == "text" else f".highbeam.{bare}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"highbeam.{name}"))
