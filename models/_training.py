"""The one training loop of the models that are trained by gradients.

A model hands in a `Learner` (what to train and how to tell how good it is) and a `Plan` (how long), and finds its
module trained afterwards. Every epoch has a random stream of its own, drawn from the seed and the number of the
epoch: a run that was killed goes on from its last checkpoint to the same bits, without any generator being stored.

Where torch.distributed runs and the model can be trained in parallel, the processes share every batch and the
validation users, and add up gradients and losses: the result is that of one process up to the order of summation.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext, HeldOut, Scores, canonical
from recscale.errors import NumericalError, UsageError
from recscale.models._parallel import Group
from recscale.models._validation import Measure, validation_sum

if TYPE_CHECKING:
    import torch

LOSSES_READ_AT_ONCE = 50  # each look at a loss waits for the device


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loss is asked for: the numbers of some examples, and where the training stands, counted from 0.

    `part` are the examples that are this process's own, all of them where it is alone.
    """

    rows: NDArray[np.int64]
    part: slice
    epoch: int
    step: int  # over all epochs
    rng: np.random.Generator  # of this epoch; torch's own generators are seeded too


def _nothing(*_: Any) -> None:
    """Do nothing: the default of the hooks."""


@dataclass(frozen=True)
class Learner:
    """What is trained, on the device where it lies.

    `loss` returns a scalar to go down from; one without a graph has written the gradients itself. With `is_parallel` it
    is the share of `batch.part` in the loss of the whole batch, and whatever it draws is drawn for the whole batch.
    `score` ranks histories (B, I) for the validation. `rate` is the factor of the learning rate after so many epochs, a
    fraction within one. `before_epoch` may prune, freeze or anneal: after it the tensors have the shapes of that epoch,
    whatever epochs came before. `after_step` may project; `gauges` are further figures to log after each epoch, asked
    for before `score`.
    Everything that a resumed run needs is a parameter or buffer of `module`, or in the state of `optimiser`.
    """

    module: torch.nn.Module
    optimiser: torch.optim.Optimizer
    loss: Callable[[Batch], torch.Tensor]
    score: Callable[[sp.csr_array], Scores]
    rate: Callable[[float], float] = lambda epochs: 1.0
    before_epoch: Callable[[int], None] = _nothing
    after_step: Callable[[], None] = _nothing
    gauges: Callable[[], Mapping[str, float]] = dict
    is_parallel: bool = False

    @property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next(self.module.parameters()).device


@dataclass(frozen=True)
class Plan:
    """How long to train, and on how much at once.

    An example is what the model takes it for, mostly a user. With validation users the weights of the best epoch are
    kept, and training ends after `patience` epochs without a better one; the first `warm_up` epochs are not judged.
    `identity` tells this training from others, for its checkpoint: hyper-parameters and data in a line.
    """

    n_examples: int
    epochs: int
    batch_size: int
    identity: str
    patience: int | None = None
    warm_up: int = 0
    measure: Measure = "ndcg"

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.n_examples / self.batch_size)


@dataclass(frozen=True)
class _Standing:
    """Where a training stands after an epoch, beside the module and the optimiser."""

    epochs: int = 0  # that are done
    best_value: float = -math.inf
    best_epoch: int = -1
    best: Mapping[str, torch.Tensor] | None = None

    def is_over(self, plan: Plan) -> bool:
        stale = self.best is not None and plan.patience is not None and self.epochs - self.best_epoch >= plan.patience
        return stale or self.epochs >= plan.epochs


@contextmanager
def session(context: FitContext, stream: int = 0) -> Iterator[None]:
    """Run torch on `n_threads` threads, its generators seeded from `seed` and `stream`; put both back afterwards."""
    import torch

    device = torch.device(context.device)
    threads, seed = torch.get_num_threads(), np.random.SeedSequence([context.seed, stream]).generate_state(1)[0]
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.set_num_threads(context.n_threads)
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed notes a traceback for GPUs: 0.7 ms
        if device.type == "cuda":
            torch.cuda.manual_seed(int(seed))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def train_module(learner: Learner, plan: Plan, context: FitContext) -> None:
    """Train the module of `learner` in place, and leave it at its best epoch if there are validation users.

    With a checkpoint in `context` the training is written there after each epoch that it is due, and one that is found
    there goes on, with the same result as if it had never stopped.
    Logs `loss`, the validation measure and the gauges of each epoch, and progress at each step.
    Raises NumericalError for a loss that is not finite (the checkpoint stays at an epoch before), DeadlineExceeded,
    UsageError for the checkpoint of another training and for several processes where the model cannot be trained so.
    """
    group = _group(learner, plan)
    bases = [float(group["lr"]) for group in learner.optimiser.param_groups]
    identity, kept = _identity(learner, plan, context), context.checkpoint
    standing = _Standing() if kept is None else _resumed(learner, kept.path, identity)
    group.agree([standing.epochs, zlib.crc32(identity.encode())], learner.device)
    group.copy_first(tensor.detach() for tensor in learner.module.parameters())
    while not standing.is_over(plan):
        with session(context, 1 + standing.epochs):
            _one_epoch(learner, plan, context, (standing.epochs, bases))
            standing = _judged(learner, plan, context, standing)
        if kept is not None and group.rank == 0 and kept.is_due():
            _write(learner, standing, kept.path, identity)
            kept.written()
    if standing.best is not None:
        learner.before_epoch(standing.best_epoch - 1)
        learner.module.load_state_dict(standing.best)


def _group(learner: Learner, plan: Plan) -> Group:
    """Return the processes that train together. Raises UsageError if there is no part for each of several."""
    group = Group.current()
    if group.size > 1 and not learner.is_parallel:
        raise UsageError("this model cannot be trained by several processes; train it in one, without torchrun")
    if group.size > plan.batch_size:
        raise UsageError(
            f"a batch of {plan.batch_size} has no part for each of {group.size} processes; raise batch_size"
        )
    return group


def _one_epoch(learner: Learner, plan: Plan, context: FitContext, at: tuple[int, list[float]]) -> None:
    """Go through the examples once, in an order of this epoch."""
    import torch

    (epoch, bases), group = at, Group.current()
    rng = np.random.default_rng([context.seed, 1 + epoch])
    learner.module.train()
    learner.before_epoch(epoch)
    order = rng.permutation(plan.n_examples)
    losses: list[torch.Tensor] = []
    values: list[float] = []
    for place in range(plan.steps):
        step = epoch * plan.steps + place
        for options, base in zip(learner.optimiser.param_groups, bases, strict=True):
            options["lr"] = base * learner.rate(epoch + place / plan.steps)
        rows = order[place * plan.batch_size : (place + 1) * plan.batch_size]
        losses.append(_differentiate(learner, Batch(rows, group.part(rows.size), epoch, step, rng), group))
        if len(losses) == LOSSES_READ_AT_ONCE or place + 1 == plan.steps:
            values += _read(group.add_up(torch.stack(losses)), values, step)
            losses.clear()
        learner.optimiser.step()
        learner.after_step()
        context.progress(step + 1, plan.epochs * plan.steps)
    context.log("loss", epoch + 1, float(np.mean(values or [0.0])))


def _differentiate(learner: Learner, batch: Batch, group: Group) -> torch.Tensor:
    """Leave the gradients of a batch, over all processes, with the parameters; return this process's loss."""
    import torch

    learner.optimiser.zero_grad(set_to_none=True)
    if group.size > 1 and batch.part.start == batch.part.stop:  # fewer examples than processes
        loss = torch.zeros((), device=learner.device)
    else:
        loss = learner.loss(batch)
        if loss.requires_grad:
            loss.backward()
    if group.size > 1:
        for parameter in learner.module.parameters():
            parameter.grad = group.add_up(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return loss.detach()


def _read(losses: torch.Tensor, before: list[float], step: int) -> list[float]:
    """Return the losses as numbers; `step` is that of the last one. Raises NumericalError for one that is not."""
    values = losses.tolist()
    for place, value in enumerate(values):
        if not math.isfinite(value):
            at, known = step - len(values) + place + 2, [*before, *values[:place]]
            if at == 1:
                raise NumericalError(f"the loss is {value} at the first step: look at the numbers of the matrix")
            last = f", the one before was {known[-1]:.6g}" if known else ""
            raise NumericalError(f"the loss became {value} at step {at}{last}; lower the learning rate")
    return [float(value) for value in values]


def _judged(learner: Learner, plan: Plan, context: FitContext, standing: _Standing) -> _Standing:
    """Return the standing after one more epoch, with its weights if they are the best so far."""
    import torch

    standing = replace(standing, epochs=standing.epochs + 1)
    for name, value in learner.gauges().items():
        context.log(name, standing.epochs, value)
    if context.validation is None or standing.epochs <= plan.warm_up:
        return standing
    learner.module.eval()
    with torch.no_grad():
        value = _validated(learner, context.validation, plan.measure)
    context.log(f"validation {plan.measure}", standing.epochs, value)
    if value <= standing.best_value:
        return standing
    weights = {name: tensor.detach().clone() for name, tensor in learner.module.state_dict().items()}
    return replace(standing, best_value=value, best_epoch=standing.epochs, best=weights)


def _validated(learner: Learner, held_out: HeldOut, measure: Measure) -> float:
    """Return the validation measure; each process looks at its part of the users."""
    import torch

    group = Group.current()
    part = group.part(held_out.n_users)
    own = held_out if group.size == 1 else HeldOut(held_out.history[part], held_out.target[part])
    sums = torch.tensor(validation_sum(learner.score, own, measure), dtype=torch.float64, device=learner.device)
    total, n_users = group.add_up(sums).tolist()
    return float(total / max(n_users, 1))


def _identity(learner: Learner, plan: Plan, context: FitContext) -> str:
    """Return what must be the same for a checkpoint to be gone on from."""
    shapes = {name: tuple(tensor.shape) for name, tensor in learner.module.state_dict().items()}
    judges = "none" if context.validation is None else _checksum(context.validation.history, context.validation.target)
    return f"{asdict(plan)}, seed {context.seed}, validation {judges}, {shapes}"


def _write(learner: Learner, standing: _Standing, checkpoint: Path, identity: str) -> None:
    """Write everything to `checkpoint`, moved into place when complete."""
    import torch

    content = {
        "identity": identity,
        "standing": vars(standing),
        "module": learner.module.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
    }
    part = checkpoint.with_name(checkpoint.name + ".part")
    torch.save(content, part)
    part.replace(checkpoint)


def _resumed(learner: Learner, checkpoint: Path, identity: str) -> _Standing:
    """Load what `checkpoint` holds into the learner; return the standing, that of a beginning if there is no file."""
    import torch

    if not checkpoint.exists():
        return _Standing()
    content = torch.load(checkpoint, map_location=learner.device, weights_only=True)  # tensors and numbers, no code
    if content["identity"] != identity:
        raise UsageError(
            f"{checkpoint} is the checkpoint of another training; remove it or name another file. "
            f"It has {content['identity']}; expected {identity}"
        )
    learner.before_epoch(content["standing"]["epochs"] - 1)
    learner.module.load_state_dict(content["module"])
    learner.optimiser.load_state_dict(content["optimiser"])
    return _Standing(**content["standing"])


def examples(train: sp.csr_array) -> sp.csr_array:
    """Return the rows of `train` (U, I) that hold something, in canonical form. Raises DataError for no matrix."""
    rows = canonical(train)
    return rows[np.flatnonzero(np.diff(rows.indptr))]


def describe(model: Any, train: sp.csr_array) -> str:
    """Return the identity of a training: the hyper-parameters, and a checksum of the data."""
    return f"{model!r} on {train.shape}, {train.nnz} entries, {_checksum(train)}"


def _checksum(*matrices: sp.csr_array) -> str:
    """Return a number that differs between matrices of other entries or values."""
    checksum = 0
    for matrix in matrices:
        for part in (matrix.indptr, matrix.indices, matrix.data):
            checksum = zlib.crc32(part.tobytes(), checksum)
    return f"{checksum:08x}"
