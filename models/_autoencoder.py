"""What the autoencoders share: sparse layers at the entrance, a multinomial at the exit, and their training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, FitContext, Model, Scores
from recscale.errors import DataError
from recscale.models._bags import Bags
from recscale.models._inputs import checked_history
from recscale.models._multinomial import MultinomialLayer
from recscale.models._training import Batch, Learner, Plan, describe, examples, session, train_module

if TYPE_CHECKING:
    import torch

Layers: TypeAlias = "Mapping[str, torch.Tensor]"

BIAS_SPREAD = 0.001  # standard deviation of a bias at the start, cut off at two of them


@dataclass(frozen=True)
class Step:
    """What an encoder may know of a step: the histories, their entries of x / |x|, and the steps done of so many."""

    rows: Bags
    values: torch.Tensor  # (n entries,)
    done: int
    total: int


@dataclass(kw_only=True)
class Autoencoder(Model):
    """What the models share: the options of their training, and the training.

    dropout: share of a history that is hidden from the encoder in a step, the rest scaled up; from 0 to below 1.
    learning_rate: of Adam, above 0.
    epochs: passes over the users, at least 1.
    batch_size: users of a step, at least 1.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    Raises NumericalError where the loss is not finite, DataError for input that is no matrix of finite numbers,
    negative numbers to train on or a history over another number of items, DeadlineExceeded between two steps.
    """

    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    epochs: Annotated[int, Meta(ge=1)] = 200
    batch_size: Annotated[int, Meta(ge=1)] = 200
    patience: Annotated[int, Meta(ge=1)] | None = 20

    entrances: ClassVar[tuple[str, ...]] = ("encoder",)  # the tables (I, H) that read histories, each hidden anew

    @abstractmethod
    def shapes(self, n_items: int) -> dict[str, tuple[int, int]]:
        """Return the weights of each layer: the entrances (I, H), last `output` (I, H), those between (in, out)."""

    @abstractmethod
    def code(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        """Return what the output layer reads when scoring, from the products of histories and entrances (B, sum H)."""

    def training_code(self, layers: Layers, entered: torch.Tensor, step: Step) -> tuple[Any, Any]:
        """Return what the output layer reads in training, and what adds to the loss; frozen layers have no gradient."""
        return self.code(layers, entered), entered.new_zeros(())

    def module(self, shape: tuple[int, int], device: str) -> torch.nn.ParameterDict:
        """Return the layers at the start of a training on a matrix of this shape (U, I)."""
        import torch

        return torch.nn.ParameterDict(initial(self.shapes(shape[1]), device))

    def before_epoch(self, module: torch.nn.ParameterDict, epoch: int) -> None:
        """Freeze, thaw or copy layers before an epoch, counted from 0."""

    def shrinkage(self) -> float:
        """Return the factor of the squared weights in the loss."""
        return 0.0

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the rows of `train` (U, I) that are not empty."""
        train = examples(train)
        if (train.data < 0).any():
            raise DataError(f"this model takes counts; the training rows hold {train.data.min():g}, expected 0 or more")
        with session(context):
            module = self.module(train.shape, context.device)
        plan = Plan(train.shape[0], self.epochs, self.batch_size, describe(self, train), self.patience)
        likelihood = Likelihood(self, module)

        def loss(batch: Batch) -> torch.Tensor:
            return likelihood(Bags.of(train[batch.rows], context.device), (batch.step, plan.epochs * plan.steps))

        def score(history: sp.csr_array) -> torch.Tensor:
            return self._scores(module, history)

        def before_epoch(epoch: int) -> None:
            self.before_epoch(module, epoch)

        train_module(Learner(module, self._optimiser(module), loss, score, before_epoch=before_epoch), plan, context)
        return self._set({name: tensor.detach() for name, tensor in module.items()})

    def _optimiser(self, module: torch.nn.ParameterDict) -> torch.optim.Optimizer:
        """Return Adam; fused, since a table of 12 million then takes 13 ms a step on one thread instead of 85."""
        import torch

        biases = [value for name, value in module.items() if name.endswith("_bias")]
        weights = [value for name, value in module.items() if not name.endswith("_bias")]
        groups = [{"params": weights, "weight_decay": 2 * self.shrinkage()}, {"params": biases}]
        return torch.optim.Adam(groups, lr=self.learning_rate, fused=True)

    def score(self, history: sp.csr_array) -> Scores:
        """Return the logits (B, I) of each row of `history`; a tensor if the model was fitted on a device."""
        scores: Any = self._scores(self.layers_, checked_history(history, self.layers_["output"].shape[0]))
        return scores if scores.device.type != "cpu" else scores.numpy()

    def _scores(self, layers: Layers, history: sp.csr_array) -> torch.Tensor:
        import torch

        with torch.no_grad():
            rows = Bags.of(history, layers["output"].device)
            code = self.code(layers, joined([rows.times(layers[name], unit_values(rows)) for name in self.entrances]))
            return torch.addmm(layers["output_bias"], code, layers["output"].T)  # (B, H) @ (H, I) -> (B, I)

    def state(self) -> Mapping[str, Array]:
        """Return the weights of each layer, as `shapes` says, and the biases, named after it with `_bias`."""
        return dict(self.layers_)

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        import torch

        return self._set({name: torch.as_tensor(array) for name, array in state.items()})

    def _set(self, layers: dict[str, Any]) -> Self:
        self.layers_ = layers
        return self


class Likelihood:
    """The loss of an autoencoder on a batch; the gradients of the tables (I, H) are written without autograd."""

    def __init__(self, model: Autoencoder, layers: torch.nn.ParameterDict) -> None:
        import torch

        self.model, self.layers = model, layers
        self.entrances = [layers[name] for name in model.entrances]
        self.by_entrance = [torch.empty_like(table, requires_grad=False) for table in self.entrances]
        self.output = MultinomialLayer(layers["output"], layers["output_bias"])

    def __call__(self, rows: Bags, done: tuple[int, int]) -> torch.Tensor:
        """Return the loss of the rows, and leave its gradients, but those of the shrinkage, with the parameters.

        Of an encoder that is frozen nothing is hidden.
        """
        import torch

        trained = self.entrances[0].requires_grad
        step = Step(rows, unit_values(rows), *done)
        hidden_share = self.model.dropout if trained else 0.0
        visible = [torch.nn.functional.dropout(step.values, hidden_share) for _ in self.entrances]
        entered = [rows.times(t.detach(), v) for t, v in zip(self.entrances, visible, strict=True)]  # (B, H) each
        if trained:
            entered = [part.requires_grad_() for part in entered]
        code, penalty = self.model.training_code(self.layers, joined(entered), step)
        loss, by_code = self.output(code.detach(), rows)
        ends = [(code, by_code), (penalty, None)]
        trainable = [end for end in ends if end[0].requires_grad]
        if trainable:
            torch.autograd.backward(*zip(*trainable, strict=True))
        if trained:
            self._add(rows, visible, entered)
        return loss + penalty.detach() + self._shrinkage()

    def _add(self, rows: Bags, visible: list[torch.Tensor], entered: list[torch.Tensor]) -> None:
        """Leave the gradients of the entrances with them, added to what autograd has left there."""
        for table, kept, weights, part in zip(self.entrances, self.by_entrance, visible, entered, strict=True):
            target = kept.zero_() if table.grad is None else table.grad
            rows.add_transposed(part.grad, weights, target)  # type: ignore[arg-type]
            table.grad = target

    def _shrinkage(self) -> Any:
        factor = self.model.shrinkage()
        weights = (w.detach().flatten() for name, w in self.layers.items() if not name.endswith("_bias"))
        return factor * sum(w @ w for w in weights) if factor else 0.0


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return what came in by each entrance side by side, (B, sum H)."""
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def initial(shapes: Mapping[str, tuple[int, int]], device: str) -> dict[str, torch.Tensor]:
    """Draw uniform Xavier weights of these shapes, and biases from a truncated normal, on the device."""
    import torch

    drawn = {}
    for name, shape in shapes.items():
        drawn[name] = torch.nn.init.xavier_uniform_(torch.empty(shape, device=device))
        bias = torch.empty(shape[0] if name == "output" else shape[1], device=device)
        drawn[f"{name}_bias"] = torch.nn.init.trunc_normal_(bias, 0.0, BIAS_SPREAD, -2 * BIAS_SPREAD, 2 * BIAS_SPREAD)
    return drawn


def unit_values(rows: Bags) -> torch.Tensor:
    """Return the entries of x / |x| for the rows x."""
    smallest = float(np.finfo(np.float32).tiny)  # the square of a tiny number is 0
    lengths = rows.by_row(rows.values.square()).sqrt().clamp(min=smallest)
    return rows.values / lengths[rows.rows]
