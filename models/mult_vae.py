"""Mult-VAE: a variational autoencoder of histories with a multinomial likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from msgspec import Meta

from recscale.contract import Choice, Estimate, ModelSpec, Range, Shape
from recscale.models._autoencoder import Autoencoder, Layers, training_estimate

if TYPE_CHECKING:
    import torch

WIDTH = 3  # hidden units a factor: 600 for 200
ANNEALED = 0.85  # share of the training in which beta grows


@dataclass
class MultVAE(Autoencoder):
    """Score an item by its logit, decoded from the mean of the Gaussian that the encoder makes of the history.

    (mu, log sigma^2) = W_2 tanh(W_1 x/|x| + b_1) + b_2, z ~ N(mu, diag sigma^2), s = W_4 tanh(W_3 z + b_3) + b_4, where
    s is the logarithm of the multinomial's weights (Liang, Krishnan, Hoffman and Jebara 2018, WWW, section 2.1).
    Lowers the mean over users of -sum_i x_ui log softmax_i(s_u) + beta KL(N(mu, sigma^2) | N(0, 1)) (section 2.2) by
    Adam, beta rising from 0 by the step; z = mu when scoring. Values of X count as so many clicks.
    By the authors' code beta rises by 1/200,000 a step up to 0.2: 40,000 steps, 0.85 of a training on ML-20M.
    Logits (B, I) are made in each step, no dense row of X ever. 2 I H + 2 H D weights are read when scoring.

    factors: D, length of z, at least 1.
    hidden: H, at least 1; None is 3 D, as in the paper, so that `factors` sets the size of the model.
    beta_cap: the last and largest beta, at least 0.
    annealing_steps: steps until then; 0 is at once, None 0.85 of the steps of all `epochs`.
    The options of the training and the errors are those of `Autoencoder`.
    """

    # NDCG@100 of validation users: ml-100k in batches of 100, 200 factors at a rate of .001 .458, at .003 .448, and 50
    # factors at .003 .445, with a beta_cap of 0.5 as well; ml-1m, 100 factors at .002 .455 after 37 epochs
    factors: Annotated[int, Meta(ge=1)] = 200
    hidden: Annotated[int, Meta(ge=1)] | None = None
    beta_cap: Annotated[float, Meta(ge=0)] = 0.2
    annealing_steps: Annotated[int, Meta(ge=0)] | None = None

    def shapes(self, n_items: int) -> dict[str, tuple[int, int]]:
        """Return the four layers; the second gives mu and log sigma^2."""
        hidden = self.hidden or WIDTH * self.factors
        middle = {"latent": (hidden, 2 * self.factors), "decoder": (self.factors, hidden)}
        return {"encoder": (n_items, hidden), **middle, "output": (n_items, hidden)}

    def code(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        """Return tanh(W_3 mu + b_3), (B, H)."""
        first = (entered + layers["encoder_bias"]).tanh()
        mean = first @ layers["latent"][:, : self.factors] + layers["latent_bias"][: self.factors]
        return self._decoded(layers, mean)

    def training_code(self, layers: Layers, entered: torch.Tensor, done: tuple[int, int]) -> tuple[Any, Any]:
        """Return tanh(W_3 z + b_3) for z at random, and beta times the divergence."""
        import torch

        first = (entered + layers["encoder_bias"]).tanh()
        mean, log_variance = (first @ layers["latent"] + layers["latent_bias"]).chunk(2, dim=1)  # (B, D) each
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self._decoded(layers, latent), self.beta(*done) * divergence(mean, log_variance)

    @staticmethod
    def _decoded(layers: Layers, latent: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = (latent @ layers["decoder"] + layers["decoder_bias"]).tanh()
        return decoded

    def beta(self, step: int, n_steps: int) -> float:
        """Return the weight of the divergence in a step, counted from 0, of so many."""
        growing = ANNEALED * n_steps if self.annealing_steps is None else self.annealing_steps
        return self.beta_cap * min(1.0, step / growing) if growing else self.beta_cap

    def _set(self, layers: dict[str, Any]) -> Self:
        """Keep of the second layer what gives mu."""
        for name in ("latent", "latent_bias"):
            layers[name] = layers[name][..., : self.factors].contiguous()
        return super()._set(layers)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return the mean over users of KL(N(mu, sigma^2) | N(0, 1)), from (B, D) each."""
    total: torch.Tensor = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
    return total


def estimate(model: MultVAE, shape: Shape) -> Estimate:
    """What the training needs; log sigma^2 is left out of the model."""
    needs = training_estimate(model, shape)
    hidden, n_outputs = model.shapes(shape.n_items)["latent"]
    return replace(needs, model_bytes=needs.model_bytes - 4 * (hidden + 1) * (n_outputs // 2))


SPEC = ModelSpec(
    model=MultVAE,
    title="Mult-VAE",
    cite="Liang, Krishnan, Hoffman and Jebara. Variational Autoencoders for Collaborative Filtering. WWW 2018.",
    size_knob="factors",
    sizes=(25, 50, 100, 200, 400),
    space={
        "beta_cap": Range(0.0, 1.0),
        "dropout": Range(0.2, 0.8),
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "batch_size": Choice((100, 200, 500, 1000)),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
