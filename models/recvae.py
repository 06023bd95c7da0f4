"""RecVAE: a variational autoencoder of histories that is held back by its own last state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from msgspec import Meta

from recscale.contract import Choice, Estimate, ModelSpec, Range, Shape
from recscale.models._autoencoder import Autoencoder, Layers, Step
from recscale.models._variational import Gaussian, drawn, log_density, mixed_by_coordinate, sample

if TYPE_CHECKING:
    import torch

WIDTH = 3  # hidden units a factor: 600 for 200
DEPTH = 5  # layers before those of mu and log sigma^2
EPSILON = 0.1  # what a variance of a layer is raised by before it is divided by
WIDE = 10.0  # log of the variance of the wide part of the prior
WEIGHTS = (3 / 20, 3 / 4, 1 / 10)  # of N(0, 1), the last posterior and N(0, e^10)
PREVIOUS = "previous_"  # before the name of a layer as it was when the decoder was last trained


@dataclass
class RecVAE(Autoencoder):
    """Score an item by its logit, linear in the mean of the Gaussian that a deep encoder makes of the history.

    h_k = norm(swish(W_k h_{k-1} + b_k + sum_{j<k} h_j)) for k = 1 to 5 with h_0 = x/|x|, which is left out of the sum,
    (mu, log sigma^2) = W h_5 + b, z ~ N(mu, diag sigma^2), s = V z + c, where s is the logarithm of a multinomial's
    weights (Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko 2020, WSDM, section 3). Lowers by Adam the mean over
    users of -sum_i x_ui log softmax_i(s_u) + gamma |x_u|_1 (log q(z|x) - log p(z|x)), with one z a user and step, under
    the composite prior p = 3/20 N(0, 1) + 3/4 q_old(z|x) + 1/10 N(0, e^10), by the authors' code a mixture of each
    coordinate. `encoder_epochs` passes train the encoder with entries of x hidden; then q_old becomes q, and
    `decoder_epochs` passes train V and c with nothing hidden. z = mu when scoring. Values of X count as so many clicks.
    Validated after each pass; the authors look after the last of each cycle only.
    Logits (B, I) are made in each step, no dense row of X ever. I (H + D) + 4 H^2 + H D weights are read when scoring.

    factors: D, length of z, at least 1.
    hidden: H, at least 1; None is 3 D, as in the paper, so that `factors` sets the size of the model.
    gamma: weight of the divergence for each click, at least 0.
    encoder_epochs, decoder_epochs: passes over the users of each, at least 1; `epochs` counts both.
    The options of the training and the errors are those of `Autoencoder`.
    """

    # NDCG@100 of validation users, 100 factors: ml-100k in batches of 100 at a rate of .002 .472 after 38 epochs (the
    # best of Mult-VAE .458, of Mult-DAE .461); ml-1m at .001 .465 after 62 and still rising (Mult-VAE .455). The paper
    # has 200 factors, a rate of .0005 and batches of 500, for 20 times the users and more
    factors: Annotated[int, Meta(ge=1)] = 100
    hidden: Annotated[int, Meta(ge=1)] | None = None
    gamma: Annotated[float, Meta(ge=0)] = 0.005
    encoder_epochs: Annotated[int, Meta(ge=1)] = 3
    decoder_epochs: Annotated[int, Meta(ge=1)] = 1
    learning_rate: Annotated[float, Meta(gt=0)] = field(default=0.002, kw_only=True)

    def shapes(self, n_items: int) -> dict[str, tuple[int, int]]:
        """Return the five layers of the encoder, its two heads, and the decoder."""
        hidden = self.hidden or WIDTH * self.factors
        deeper = {f"hidden_{depth}": (hidden, hidden) for depth in range(2, DEPTH + 1)}
        heads = {"mean": (hidden, self.factors), "log_variance": (hidden, self.factors)}
        return {"encoder": (n_items, hidden), **deeper, **heads, "output": (n_items, self.factors)}

    def module(self, shape: tuple[int, int], device: str) -> torch.nn.ParameterDict:
        """Return the layers, their norms, and an encoder of other weights as the one before."""
        import torch

        layers, other = self._drawn(shape[1], device), self._drawn(shape[1], device)
        before = {PREVIOUS + name: value for name, value in other.items() if _encodes(name)}
        return torch.nn.ParameterDict(layers | before)

    def _drawn(self, n_items: int, device: str) -> dict[str, torch.Tensor]:
        import torch

        layers = drawn(self.shapes(n_items), device, gaussian=False)
        width = layers["encoder"].shape[1]
        for depth in range(1, DEPTH + 1):
            layers[f"gain_{depth}"] = torch.ones(width, device=device)
            layers[f"shift_{depth}"] = torch.zeros(width, device=device)
        return layers

    def before_epoch(self, module: torch.nn.ParameterDict, epoch: int) -> None:
        """Freeze the encoder or the decoder; keep the encoder where the decoder's turn begins."""
        place = epoch % (self.encoder_epochs + self.decoder_epochs)
        is_decoding = place >= self.encoder_epochs
        for name, layer in module.items():
            layer.requires_grad_(not name.startswith(PREVIOUS) and _encodes(name) != is_decoding)
            if name.startswith(PREVIOUS) and place == self.encoder_epochs:
                layer.data.copy_(module[name.removeprefix(PREVIOUS)].data)

    def code(self, layers: Layers, entered: torch.Tensor) -> torch.Tensor:
        """Return mu, (B, D)."""
        return _deepest(layers, entered) @ layers["mean"] + layers["mean_bias"]

    def training_code(self, layers: Layers, entered: torch.Tensor, step: Step) -> tuple[Any, Any]:
        """Return z at random, and gamma times the clicks times the divergence."""
        import torch

        posterior = _posterior(layers, entered)
        before = {name.removeprefix(PREVIOUS): layers[name] for name in layers if name.startswith(PREVIOUS)}
        with torch.no_grad():
            previous = _posterior(before, step.rows.times(before["encoder"], step.values))
        latent = sample(posterior)
        apart = (log_density(latent, posterior) - composite(latent, previous)).sum(1)  # (B,)
        clicks = step.rows.by_row(step.rows.values)
        return latent, self.gamma * (clicks * apart).mean()

    def _set(self, layers: dict[str, Any]) -> Self:
        """Keep what gives mu and the logits."""
        dropped = ("log_variance", PREVIOUS)
        return super()._set({name: value for name, value in layers.items() if not name.startswith(dropped)})


def _encodes(name: str) -> bool:
    return not name.startswith("output")


def _deepest(layers: Layers, entered: torch.Tensor) -> torch.Tensor:
    """Return h_5 from the product of the histories and the first layer, (B, H) both."""
    import torch

    current = total = torch.empty(0)
    for depth in range(1, DEPTH + 1):
        if depth == 1:
            raised = entered + layers["encoder_bias"]
        else:
            raised = current @ layers[f"hidden_{depth}"] + layers[f"hidden_{depth}_bias"] + total
        norm = layers[f"gain_{depth}"], layers[f"shift_{depth}"]
        current = torch.nn.functional.layer_norm(torch.nn.functional.silu(raised), raised.shape[1:], *norm, EPSILON)
        total = current if depth == 1 else total + current
    return current


def _posterior(layers: Layers, entered: torch.Tensor) -> Gaussian:
    deepest = _deepest(layers, entered)
    mean, log_variance = (deepest @ layers[name] + layers[f"{name}_bias"] for name in ("mean", "log_variance"))
    return mean, log_variance


def composite(latent: torch.Tensor, previous: Gaussian) -> torch.Tensor:
    """Return the log density of each coordinate, (B, D), under the composite prior with this last posterior."""
    zero = latent.new_zeros(())
    return mixed_by_coordinate(latent, [(zero, zero), previous, (zero, zero + WIDE)], WEIGHTS)


def estimate(model: RecVAE, shape: Shape) -> Estimate:
    """What the training of an autoencoder needs and the encoder before; log sigma^2 is left out of the model."""
    from recscale.models._autoencoder_needs import training_estimate

    needs = training_estimate(model, shape)
    n_inner = sum(_sizes(model, shape.n_items))
    norms = 2 * DEPTH * model.shapes(shape.n_items)["encoder"][1]
    unread = 4 * model.factors * (model.shapes(shape.n_items)["mean"][0] + 1)
    return replace(
        needs,
        peak_bytes=needs.peak_bytes + 8 * n_inner + 32 * norms,
        model_bytes=needs.model_bytes + 4 * norms - unread,
    )


def _sizes(model: RecVAE, n_items: int) -> Iterator[int]:
    """Yield the number of weights of each layer of the encoder."""
    for name, (n_in, n_out) in model.shapes(n_items).items():
        if _encodes(name):
            yield (n_in + 1) * n_out


SPEC = ModelSpec(
    model=RecVAE,
    title="RecVAE",
    cite="Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko. RecVAE: A New Variational Autoencoder for Top-N "
    "Recommendations with Implicit Feedback. WSDM 2020.",
    size_knob="factors",
    sizes=(25, 50, 100, 200, 400),
    space={
        "gamma": Range(5e-4, 5e-2, log=True),
        "dropout": Range(0.2, 0.8),
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "batch_size": Choice((100, 200, 500, 1000)),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
