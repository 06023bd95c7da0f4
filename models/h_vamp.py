"""H+Vamp: a variational autoencoder of histories with two levels and a prior made of learned histories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from msgspec import Meta

from recscale.contract import Choice, Estimate, ModelSpec, Range, Shape
from recscale.models._autoencoder import Autoencoder, Layers, Step
from recscale.models._variational import Gaussian, drawn, log_density, mixed_evenly, sample

if TYPE_CHECKING:
    import torch

WIDTH = 3  # hidden units a factor: 600 for 200
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -12.0, 4.0
PSEUDO_MEAN, PSEUDO_SPREAD = 0.05, 0.01  # of the entries of made-up histories at the start
UNREAD = ("prior", "pseudo_inputs")  # begin the names of what is there for training alone
CODED = ("upper", "lower")  # whose log sigma^2 is


@dataclass
class HVamp(Autoencoder):
    """Score an item by its logit, decoded from the means of two Gaussians that encoders make of the history.

    With layers f of H units, z2 ~ q(z2|x) = N(f(f(x/|x|))), z1 ~ q(z1|x, z2) = N(f([f(x/|x|), f(z2)])) and
    s = W f([f(z1), f(z2)]) + b, where s is the logarithm of a multinomial's weights; each N has a mean and a
    log sigma^2, linear and cut to -12 to 4 (Kim and Suh 2019, RecSys; two layers, as in their code's example). f is
    tanh(W x + b) or, if `gated`, (W x + b) * sigmoid(V x + c). Lowers by Adam the mean over users of
    -sum_i x_ui log softmax_i(s_u) + beta (log q(z2|x) - log p(z2) + log q(z1|x, z2) - log p(z1|z2)), with one draw of
    each z a user and step, under p(z1|z2) = N(f(f(z2))) and p(z2) = 1/C sum_c q(z2|u_c), the VampPrior of C learned
    histories u_c of entries from 0 to 1 (Tomczak and Welling 2018, AISTATS). Scores take the means for z.
    Their code has a logistic likelihood too, which their command for Netflix takes, with the beta_cap of here, and its
    optimiser divides each gradient by its length before Adam does by its size: neither is here. As there, x is of
    length 1 and u is not, and what is hidden is drawn for each encoder and for u on its own. Values of X count as so
    many clicks.
    Logits (B, I) are made in each step, no dense row of X ever, but (C, I) of u: 6 C I H multiplications and additions
    a step, twice as many if gated. 3 I H weights are read when scoring, 5 I H if gated, and C I more are trained.

    factors: D, length of z1 and of z2, at least 1.
    hidden: H, at least 1; None is 3 D, as in the paper, so that `factors` sets the size of the model.
    gated: whether a layer has a gate instead of tanh.
    n_pseudo_inputs: C, at least 1; no more than there are users, the mixture of whose codes is the best prior there is.
    beta_cap: the last and largest beta, at least 0.
    annealing_epochs: passes over the users until then, beta rising from 0 by the step; 0 is at once.
    The other options of the training and the errors are those of `Autoencoder`.
    """

    # NDCG@100 of validation users, ml-100k in batches of 100 with 100 histories u, beta rising for 30 epochs: 50
    # factors .441, not gated .420; 100 factors .449. For 20 or 50 epochs 50 factors .445, .442: with 20 beta is there
    # before the training may end. The paper has 200 factors, 1000 histories, a rate of .0005 and beta rising for 100
    # epochs, for 100,000 users; with 1000 (here 238) histories a fit took 4.5 times as long
    factors: Annotated[int, Meta(ge=1)] = 100
    hidden: Annotated[int, Meta(ge=1)] | None = None
    gated: bool = True
    n_pseudo_inputs: Annotated[int, Meta(ge=1)] = 100
    beta_cap: Annotated[float, Meta(ge=0)] = 0.3
    annealing_epochs: Annotated[int, Meta(ge=0)] = 20
    learning_rate: Annotated[float, Meta(gt=0)] = field(default=0.002, kw_only=True)

    entrances: ClassVar[tuple[str, ...]] = ("upper_encoder", "lower_encoder")

    def shapes(self, n_items: int) -> dict[str, tuple[int, int]]:
        """Return the layers by what they give: z2 is the upper code and z1 the lower; a gate doubles the outputs."""
        factors, hidden = self.factors, self.hidden or WIDTH * self.factors
        outputs = 2 * hidden if self.gated else hidden
        return {
            "upper_encoder": (n_items, outputs),
            "lower_encoder": (n_items, outputs),
            "upper_hidden": (hidden, outputs),
            "upper": (hidden, 2 * factors),
            "lower_from_upper": (factors, outputs),
            "lower_hidden": (2 * hidden, outputs),
            "lower": (hidden, 2 * factors),
            "prior_from_upper": (factors, outputs),
            "prior_hidden": (hidden, outputs),
            "prior": (hidden, 2 * factors),
            "output_from_lower": (factors, outputs),
            "output_from_upper": (factors, outputs),
            "output_hidden": (2 * hidden, outputs),
            "output": (n_items, hidden),
        }

    def module(self, shape: tuple[int, int], device: str) -> torch.nn.ParameterDict:
        """Return the layers and the made-up histories u (C, I)."""
        import torch

        n_users, n_items = shape
        layers = drawn(self.shapes(n_items), device, gaussian=True)
        pseudo_inputs = torch.empty(min(self.n_pseudo_inputs, n_users), n_items, device=device)
        layers["pseudo_inputs"] = pseudo_inputs.normal_(PSEUDO_MEAN, PSEUDO_SPREAD)
        return torch.nn.ParameterDict(layers)

    def code(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        """Return the last hidden layer for the means of z2 and of z1, (B, H)."""
        above, below = entered.chunk(2, dim=1)
        upper = self._linear(layers, "upper", self._upper_hidden(layers, above))[:, : self.factors]
        lower = self._linear(layers, "lower", self._lower_hidden(layers, below, upper))[:, : self.factors]
        return self._decoded(layers, upper, lower)

    def training_code(self, layers: Layers, entered: torch.Tensor, step: Step) -> tuple[Any, Any]:
        """Return the last hidden layer for z2 and z1 at random, and beta times the divergence."""
        above, below = entered.chunk(2, dim=1)
        of_upper = self._gaussian(layers, "upper", self._upper_hidden(layers, above))
        upper = sample(of_upper)
        of_lower = self._gaussian(layers, "lower", self._lower_hidden(layers, below, upper))
        lower = sample(of_lower)
        prior = self._layer(layers, "prior_hidden", self._layer(layers, "prior_from_upper", upper))
        apart = (log_density(lower, of_lower) - log_density(lower, self._gaussian(layers, "prior", prior))).sum(1)
        apart = apart + log_density(upper, of_upper).sum(1) - mixed_evenly(upper, self._pseudo_codes(layers))
        return self._decoded(layers, upper, lower), self.beta(step.done, step.total) * apart.mean()

    def beta(self, step: int, n_steps: int) -> float:
        """Return the weight of the divergence in a step, counted from 0, of so many."""
        if not self.annealing_epochs:
            return self.beta_cap
        return self.beta_cap * min(1.0, step * self.epochs / (n_steps * self.annealing_epochs))

    def _pseudo_codes(self, layers: Layers) -> Gaussian:
        """Return q(z2|u) for the made-up histories, (C, D) each."""
        import torch

        visible = torch.nn.functional.dropout(layers["pseudo_inputs"].clamp(0.0, 1.0), self.dropout)
        entered = visible @ layers["upper_encoder"]  # (C, I) @ (I, H) -> (C, H)
        return self._gaussian(layers, "upper", self._upper_hidden(layers, entered))

    def _upper_hidden(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        return self._layer(layers, "upper_hidden", self._active(entered + layers["upper_encoder_bias"]))

    def _lower_hidden(self, layers: Layers, entered: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
        import torch

        of_history = self._active(entered + layers["lower_encoder_bias"])
        both = torch.cat([of_history, self._layer(layers, "lower_from_upper", upper)], 1)
        return self._layer(layers, "lower_hidden", both)

    def _decoded(self, layers: Layers, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        import torch

        parts = [self._layer(layers, "output_from_lower", lower), self._layer(layers, "output_from_upper", upper)]
        return self._layer(layers, "output_hidden", torch.cat(parts, 1))

    def _gaussian(self, layers: Layers, name: str, read: torch.Tensor) -> Gaussian:
        mean, log_variance = self._linear(layers, name, read).chunk(2, dim=1)
        return mean, log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE)

    def _layer(self, layers: Layers, name: str, read: torch.Tensor) -> torch.Tensor:
        return self._active(self._linear(layers, name, read))

    @staticmethod
    def _linear(layers: Layers, name: str, read: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = read @ layers[name] + layers[f"{name}_bias"]
        return result

    def _active(self, linear: torch.Tensor) -> torch.Tensor:
        """Return f of what a layer gives before its gate or tanh: of (B, 2 H) or (B, H), (B, H)."""
        if not self.gated:
            return linear.tanh()
        value, gate = linear.chunk(2, dim=1)
        return value * gate.sigmoid()

    def _set(self, layers: dict[str, Any]) -> Self:
        """Keep what gives the means and the logits."""
        kept = {name: value for name, value in layers.items() if not name.startswith(UNREAD)}
        for name in CODED:
            for part in (name, f"{name}_bias"):
                kept[part] = kept[part][..., : self.factors].contiguous()
        return super()._set(kept)


def estimate(model: HVamp, shape: Shape) -> Estimate:
    """What the training of an autoencoder needs, the made-up histories and what becomes of them in a step."""
    from recscale.models._autoencoder_needs import training_estimate

    needs = training_estimate(model, shape)
    shapes = model.shapes(shape.n_items)
    unread = sum((n_in + 1) * n_out for name, (n_in, n_out) in shapes.items() if name.startswith(UNREAD))
    unread += sum((shapes[name][0] + 1) * model.factors for name in CODED)
    inputs = min(model.n_pseudo_inputs, shape.n_users) * shape.n_items
    steps = model.epochs * -(-shape.n_users // model.batch_size)
    return replace(
        needs,
        # weights, gradients, two moments and the best epoch; cut to 0 and 1, kept ones, visible ones, and a gradient
        peak_bytes=needs.peak_bytes + 4 * 9 * inputs + 4 * shape.n_items * shapes["upper_encoder"][1],
        model_bytes=needs.model_bytes - 4 * unread,
        fit_seconds=(needs.fit_seconds or 0.0) + 6 * inputs * shapes["upper_encoder"][1] * steps / 1.7e10,
    )


SPEC = ModelSpec(
    model=HVamp,
    title="H+Vamp",
    cite="Kim and Suh. Enhancing VAEs for Collaborative Filtering: Flexible Priors & Gating Mechanisms. RecSys 2019.",
    size_knob="factors",
    sizes=(25, 50, 100, 200, 400),
    space={
        "gated": Choice((True, False)),
        "beta_cap": Range(0.05, 1.0, log=True),
        "n_pseudo_inputs": Choice((100, 300, 1000)),
        "dropout": Range(0.2, 0.8),
        "learning_rate": Range(2e-4, 5e-3, log=True),
        "batch_size": Choice((100, 200, 500, 1000)),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
