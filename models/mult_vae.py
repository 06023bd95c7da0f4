"""Mult-VAE: a variational autoencoder of histories with a multinomial likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from msgspec import Meta

from recscale.contract import Choice, Estimate, ModelSpec, Range, Shape
from recscale.models._autoencoder import Autoencoder, Layers, Step
from recscale.models._variational import sample

if TYPE_CHECKING:
    import torch

WIDTH = 3  # hidden units a factor: 600 for 200
ANNEALED = 0.85  # share of the training in which beta grows


@dataclass
class MultVAE(Autoencoder):
    """Score an item by its logit, decoded from the mean of the Gaussian that the encoder makes of the history.

    (mu, log sigma^2) = W_1 x/|x| + b_1, z ~ N(mu, diag sigma^2), s = W_4 z + b_4, or with H hidden units on either side
    (mu, log sigma^2) = W_2 tanh(W_1 x/|x| + b_1) + b_2 and s = W_4 tanh(W_3 z + b_3) + b_4, where s is the logarithm of
    the multinomial's weights (Liang, Krishnan, Hoffman and Jebara 2018, WWW, section 2.1).
    Lowers the mean over users of -sum_i x_ui log softmax_i(s_u) + beta KL(N(mu, sigma^2) | N(0, 1)) (section 2.2) by
    Adam, beta rising from 0 by the step; z = mu when scoring. Values of X count as so many clicks.
    By the authors' code beta rises by 1/200,000 a step up to 0.2: 40,000 steps, 0.85 of a training on ML-20M.
    Logits (B, I) are made in each step, no dense row of X ever. 2 I D weights are read when scoring, or 2 I H + 2 H D.

    factors: D, length of z, at least 1.
    hidden: H, at least 0; None is 3 D, the paper's 600 for 200, so that `factors` sets the size of the model. The paper
        tried 0, 1 and 2 hidden layers on either side; its figures are those of 1.
    beta_cap: the last and largest beta, at least 0.
    annealing_steps: steps until then; 0 is at once, None 0.85 of the steps of all `epochs`.
    learning_rate: of Adam, above 0; the paper's is 0.001, for longer trainings.
    The other options of the training and the errors are those of `Autoencoder`.
    """

    # NDCG@100 of validation users, one seed, ml-1m: without hidden layers, 200 factors at a rate of .004 .468 after 20
    # epochs, with a beta_cap of 0.8 .462, at a rate of .002 .464 after 37. With them 100 factors at .002 .455, and no
    # more with 2e-5 |W|^2 (.455) or 2e-4 (.451) added, without divergence (.444), without noise as well (.448), or with
    # beta 1 from the start (.420 after 21), or after all of 200 epochs at .001 (.455): neither the divergence nor the
    # end holds them back, the layers do. Mult-DAE, of one layer, has .473 without its shrinkage. ml-100k in batches of
    # 100: .458 without them at .004, with them at .001
    factors: Annotated[int, Meta(ge=1)] = 200
    hidden: Annotated[int, Meta(ge=0)] | None = 0
    beta_cap: Annotated[float, Meta(ge=0)] = 0.2
    annealing_steps: Annotated[int, Meta(ge=0)] | None = None
    learning_rate: Annotated[float, Meta(gt=0)] = field(default=0.004, kw_only=True)

    def shapes(self, n_items: int) -> dict[str, tuple[int, int]]:
        """Return the layers; the second, or the first of two, gives mu and log sigma^2."""
        if self.hidden == 0:
            return {"encoder": (n_items, 2 * self.factors), "output": (n_items, self.factors)}
        hidden = self.hidden or WIDTH * self.factors
        middle = {"latent": (hidden, 2 * self.factors), "decoder": (self.factors, hidden)}
        return {"encoder": (n_items, hidden), **middle, "output": (n_items, hidden)}

    @property
    def gaussian(self) -> str:
        """The name of the layer that gives mu and log sigma^2."""
        return "encoder" if self.hidden == 0 else "latent"

    def code(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        """Return tanh(W_3 mu + b_3), (B, H), or mu, (B, D)."""
        return self._decoded(layers, self._encoded(layers, entered, slice(self.factors)))

    def training_code(self, layers: Layers, entered: torch.Tensor, step: Step) -> tuple[Any, Any]:
        """Return the same for z at random, and beta times the divergence."""
        mean, log_variance = self._encoded(layers, entered, slice(None)).chunk(2, dim=1)  # (B, D) each
        decoded = self._decoded(layers, sample((mean, log_variance)))
        return decoded, self.beta(step.done, step.total) * divergence(mean, log_variance)

    def _encoded(self, layers: Layers, entered: torch.Tensor, columns: slice) -> torch.Tensor:
        """Return these columns of mu and log sigma^2."""
        if self.hidden == 0:
            return (entered + layers["encoder_bias"])[:, columns]
        first = (entered + layers["encoder_bias"]).tanh()
        return first @ layers["latent"][:, columns] + layers["latent_bias"][columns]

    def _decoded(self, layers: Layers, latent: torch.Tensor) -> torch.Tensor:
        if self.hidden == 0:
            return latent
        decoded: torch.Tensor = (latent @ layers["decoder"] + layers["decoder_bias"]).tanh()
        return decoded

    def beta(self, step: int, n_steps: int) -> float:
        """Return the weight of the divergence in a step, counted from 0, of so many."""
        growing = ANNEALED * n_steps if self.annealing_steps is None else self.annealing_steps
        return self.beta_cap * min(1.0, step / growing) if growing else self.beta_cap

    def _set(self, layers: dict[str, Any]) -> Self:
        """Keep of the layer what gives mu."""
        for name in (self.gaussian, f"{self.gaussian}_bias"):
            layers[name] = layers[name][..., : self.factors].contiguous()
        return super()._set(layers)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return the mean over users of KL(N(mu, sigma^2) | N(0, 1)), from (B, D) each."""
    total: torch.Tensor = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
    return total


def estimate(model: MultVAE, shape: Shape) -> Estimate:
    """What the training needs; log sigma^2 is left out of the model."""
    from recscale.models._autoencoder_needs import training_estimate

    needs = training_estimate(model, shape)
    n_inputs, n_outputs = model.shapes(shape.n_items)[model.gaussian]
    return replace(needs, model_bytes=needs.model_bytes - 4 * (n_inputs + 1) * (n_outputs // 2))


SPEC = ModelSpec(
    model=MultVAE,
    title="Mult-VAE",
    cite="Liang, Krishnan, Hoffman and Jebara. Variational Autoencoders for Collaborative Filtering. WWW 2018.",
    size_knob="factors",
    sizes=(25, 50, 100, 200, 400),
    space={
        "hidden": Choice((0, None)),
        "beta_cap": Range(0.0, 1.0),
        "dropout": Range(0.2, 0.8),
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "batch_size": Choice((100, 200, 500, 1000)),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
