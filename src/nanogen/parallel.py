"""Several processes, started by torchrun; with one process there is no process group and every call is a no-op."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_structure

from diffusionbench.errors import ConfigError, RunError, Stopped, Told, UserError
from diffusionbench.shown import first_line

T = TypeVar("T")
# How long processes wait for each other in a step of a training; and where one of them works alone: before the first
# step, in evaluations, and for slow disks.
STEP_TIMEOUT, PATIENT_TIMEOUT = timedelta(minutes=10), timedelta(hours=24)
# Process groups over all processes: "patient" waits long, "saving" is for the thread that writes checkpoints.
_groups: dict[str, dist.ProcessGroup] = {}
_hurried = False


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and talks."""
    return rank() == 0


# How launchers that start several processes say how many; torchrun and srun alone say how they find each other.
_TASKS = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# What torchrun calls a variable -> what srun calls it in each task of a step.
_SRUN = {"WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}


@contextmanager
def processes() -> Iterator[str]:
    """Join the group that torchrun or srun describes, if one does; gives the device of this process.

    A process that is in the group stays in it: to leave and join again at one address is a race between its members.

    Raises:
        ConfigError: if several processes were started without a way to find each other.
        RunError: if another process of the group ends before its time.
    """
    if "WORLD_SIZE" not in os.environ:
        _join_step()
    local, world = _number("LOCAL_RANK", 0), _number("WORLD_SIZE", 1)
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine needs a GPU of its own, and there are {torch.cuda.device_count()}. "
                "Start as many processes as GPUs (--nproc-per-node)."
            )
        torch.cuda.set_device(local)
    if world == 1 or dist.is_initialized():
        yield device
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=STEP_TIMEOUT)
        for name in ("patient", "saving"):
            _groups[name] = dist.new_group(backend="gloo", timeout=PATIENT_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise RunError(
            f"{world} processes cannot find each other: {reason} Start them with torchrun or srun."
        ) from None
    try:
        yield device
    except (UserError, RunError) as error:
        # What all meet alike went through `agreed`, and a signal goes to all.
        error.everywhere = isinstance(error, Stopped)
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            "another process of this run has ended; if it had a reason, it said so. The same command continues."
        ) from None
    finally:
        _groups.clear()
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name} is '{text}' in the environment; a whole number is needed. Start with torchrun.")
    return int(text)


def _join_step() -> None:
    """Call what srun says of this task as torchrun does, or refuse several tasks that do not know each other."""
    nodes = os.environ.get("SLURM_STEP_NODELIST")
    if nodes and set(_SRUN.values()) <= os.environ.keys() and _number("SLURM_STEP_NUM_TASKS", 1) > 1:
        os.environ.update({name: os.environ[given] for name, given in _SRUN.items()})
        per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
        if per_node.isdecimal():
            os.environ["LOCAL_WORLD_SIZE"] = per_node
        os.environ.setdefault("MASTER_ADDR", first_host(nodes))
        # Another one for each job, as two may share a machine.
        os.environ.setdefault("MASTER_PORT", str(20_000 + _number("SLURM_JOB_ID", 0) % 20_000))
        return
    for name in _TASKS:
        if _number(name, 1) > 1:
            raise ConfigError(
                f"{name} is {os.environ[name]}: each of these processes would do all the work. Start them with srun, "
                "or one a machine and torchrun in it (srun --ntasks-per-node 1 torchrun --nproc-per-node N -m nanogen "
                f"...); for a single process unset {name}."
            )


def first_host(nodes: str) -> str:
    """Return the first machine of a list such as "gpu[03-05,9],login"."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", re.sub(r"^((?:[^,\[]|\[[^\]]*\])*).*", r"\1", nodes))


@contextmanager
def patience(patient: bool) -> Iterator[None]:
    """While it is entered, processes wait for each other for a day, or for ten minutes: where all do the same work."""
    global _hurried
    before, _hurried = _hurried, not patient
    try:
        yield
    finally:
        _hurried = before


def _waiting() -> dist.ProcessGroup | None:
    return None if _hurried else _groups.get("patient")


@contextmanager
def agreed() -> Iterator[None]:
    """Hold a part of the work after which all processes go on, or all end: the first that failed says why.

    Once one process may fail, the part calls no other function of this module.

    Raises:
        UserError, RunError: its own, in the first process that failed.
        Told: in the others.
    """
    failure: UserError | RunError | None = None
    try:
        yield
    except (UserError, RunError) as error:
        failure = error
    if dist.is_initialized():
        codes: list[int | None] = [None] * world_size()
        dist.all_gather_object(codes, failure and failure.exit_code, _waiting())
        first = next((number for number, code in enumerate(codes) if code is not None), None)
        if first is not None and first != rank():
            raise Told(codes[first] or 1) from None
    if failure is not None:
        raise failure


def from_main(make: Callable[[], T]) -> T:
    """Return what the main process makes, in every process; where it fails, all end as in `agreed`."""
    made: list[Any] = [None]
    with agreed():
        if is_main():
            made = [make()]
    if dist.is_initialized():
        dist.broadcast_object_list(made, group=_waiting())
    return made[0]


@dataclass(frozen=True)
class Sharing:
    """How several processes share the work of one training.

    Attributes:
        shard: "none": each holds all weights (DDP); "full": each holds its part of weights, gradients and optimizer
            (FSDP2); "hybrid": the processes of one machine share them, and machines repeat each other.
        blocks: modules whose weights are gathered together, one after the other.
        bfloat16: weights of blocks travel and multiply in bfloat16; gradients are added in float32 either way.
        static_graph: every step uses the same weights in the same order.
    """

    shard: Literal["none", "full", "hybrid"] = "none"
    blocks: tuple[nn.Module, ...] = ()
    bfloat16: bool = False
    static_graph: bool = False


def wrap(module: nn.Module, sharing: Sharing | None = None) -> nn.Module:
    """Return a module whose gradients are averaged over the processes; itself where there is one process.

    Trainable parameters that are sharded become `DTensor`s, under the names they had.

    Raises:
        ConfigError: if the processes do not form the mesh.
    """
    sharing = sharing or Sharing()
    if world_size() == 1:
        return module
    device = next(module.parameters()).device
    if sharing.shard == "none":
        with warnings.catch_warnings():
            # The option that follows it still sends buffers once, and older versions do not know it.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                module,
                device_ids=None if device.type == "cpu" else [device],
                # Buffers are constant or computed alike.
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=sharing.static_graph,
            )
    mesh = _mesh(sharing.shard, device.type)
    policy = MixedPrecisionPolicy(
        torch.bfloat16 if sharing.bfloat16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in sharing.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    frozen = {weight for weight in module.parameters() if not weight.requires_grad}
    # What is left, times and condition among it, stays float32.
    whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(module, mesh=mesh, mp_policy=whole, ignored_params=frozen)
    return module


def _mesh(shard: str, device: str) -> DeviceMesh:
    world, local = world_size(), _number("LOCAL_WORLD_SIZE", world_size())
    if shard == "full":
        return init_device_mesh(device, (world,))
    if not local or world % local:
        raise ConfigError(
            f"train.shard=hybrid needs machines of equally many processes: {world} in all, {local} on this one. Start "
            "as many on each, or set train.shard=full."
        )
    return init_device_mesh(device, (world // local, local), mesh_dim_names=("replicate", "shard"))


@contextmanager
def local_gradients(model: nn.Module, local: bool) -> Iterator[None]:
    """Hold both passes of a micro-batch; while `local`, gradients are summed in this process only: all but the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not local)
        yield
    elif local and world_size() > 1:
        with model.no_sync():  # type: ignore[operator]
            yield
    else:
        yield


def all_max(value: Tensor) -> Tensor:
    """Return the largest value over the processes, everywhere."""
    if dist.is_initialized():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def all_mean(value: Tensor) -> Tensor:
    """Return the mean over the processes, everywhere."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.SUM)
        value /= world_size()
    return value


def gather(mine: dict[int, Any]) -> dict[int, Any] | None:
    """Return the entries of all processes together, in the main process; None in the others."""
    if not dist.is_initialized():
        return mine
    parts: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(mine, parts, group=_waiting())
    return None if parts is None else {key: value for part in parts for key, value in part.items()}


def full(tensor: Tensor) -> Tensor:
    """Return a tensor whole where each process holds a part of it; itself otherwise. Every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, as a view; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_part(tensor: Tensor) -> bool:
    """Return whether each process holds a part of a tensor."""
    return isinstance(tensor, DTensor)


@torch.no_grad()
def assign(tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part."""
    if isinstance(tensor, DTensor):
        # Each process has all of it, so nothing is sent.
        whole = distribute_tensor(
            whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        ).to_local()
    part(tensor).copy_(whole)


def whole_copy(module: nn.Module) -> nn.Module:
    """Return a copy with whole parameters, or the module itself where they are whole. Every process calls it."""
    parts = [weight for weight in module.parameters() if is_part(weight)]
    if not parts:
        return module
    return copy.deepcopy(module, {id(weight): nn.Parameter(full(weight), requires_grad=False) for weight in parts})


# Training state on disk: every process writes its part, under names that do not depend on how it was cut.


def optimizer_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return the state of a module's optimizers: "state" by parameter name, and "param_groups"."""
    return get_optimizer_state_dict(module, optimizers)


def set_optimizer_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: dict[str, Any]) -> None:
    """Load what `optimizer_state` returned."""
    set_optimizer_state_dict(module, optimizers, state)


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: Any) -> None:
        self._file, self._sha, self._bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._sha.update(data)
        self._bytes += memoryview(data).nbytes
        return self._file.write(data)

    @property
    def written(self) -> tuple[int, str]:
        return self._bytes, self._sha.hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _HashedFiles(FileSystem):
    """The files of one process, by name, as (bytes, SHA-256)."""

    def __init__(self) -> None:
        self.written: dict[str, tuple[int, str]] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as file:
            hashed = _Hashed(file)
            yield hashed
        self.written[Path(path).name] = hashed.written

    def mkdir(self, path: Any) -> None:
        # Without parents: a run that is moved or deleted meanwhile shall not come back as an empty one.
        Path(path).mkdir(exist_ok=True)

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class Staging:
    """Copies what `save` takes into main memory, so that training goes on while it is written.

    Each copy takes the place of the one before: memory that is new costs several times as much time as the copy.
    """

    def __init__(self) -> None:
        self._stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def __call__(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a copy, which holds until the next one."""
        kept = self._stager.state_dict_cache
        if kept is None or tree_structure(kept) != tree_structure(state):
            # Memory that torch makes itself is pinned, which only a GPU can ask for.
            self._stager.state_dict_cache = None if torch.cuda.is_available() else BlockingAsyncStager().stage(state)
        return self._stager.stage(state)


def save(state: dict[str, Any], folder: Path) -> Mapping[str, tuple[int, str]]:
    """Write nested tensors and plain values; every process calls it, from a thread of its own if it likes.

    Returns:
        Size in bytes and SHA-256 of each file, by its name in the folder.

    Raises:
        OSError: if that is not possible; the reasons of all processes are in its message.
    """
    writer, files, group = dcp.FileSystemWriter(folder), _HashedFiles(), _groups.get("saving")
    writer.fs = files
    with _told():
        dcp.save(state, storage_writer=writer, process_group=group)
    parts: list[Any] = [files.written] * world_size()
    if group is not None:
        dist.all_gather_object(parts, files.written, group)
    return {name: written for part in parts for name, written in part.items()}


def load(state: dict[str, Any], folder: Path) -> None:
    """Read into the tensors of a state as `save` was given; its plain values are replaced.

    Raises:
        OSError: if the files are damaged or hold something else.
    """
    with _told():
        dcp.load(state, checkpoint_id=folder)


@contextmanager
def _told() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Says that one process saves alone, which is what we want.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except dcp.api.CheckpointException as error:
        raise OSError("; ".join(sorted({str(failure[0]) for failure in error.failures.values()}))) from None
