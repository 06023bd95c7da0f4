"""The protocols by name, with their options: what is held out, and what can be judged under each.

- `fold-in`: held-out users, a share of each history is to be found (Liang, Krishnan, Hoffman & Jebara 2018).
- `hold-one-out`: held-out users, the most recent or one random item is to be found (Yang et al. 2021, section 5).
- `fixed`: a published training and test file; the users are those of training (weak generalisation).
- `ratings`: a random share of all ratings is to be predicted (Chen et al. 2023, WWW, and their public code).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

from msgspec import Meta

from recscale._parameters import build
from recscale.contract import Judged, Options
from recscale.errors import UnknownName, UsageError

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Share: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]
Seed: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]  # what numpy's RandomState takes

_RANKING: frozenset[Judged] = frozenset({"ranking"})


class ProtocolOptions(Options):
    """Base of the options of a protocol; each subclass is a frozen dataclass."""

    name: ClassVar[str]

    @property
    def judged(self) -> frozenset[Judged]:
        """What metrics can judge under these options."""
        return _RANKING

    @property
    def takes_everything(self) -> bool:
        """Whether the filter of a data set, which in many drops low ratings, is left out unless it is asked for."""
        return False


@dataclass(frozen=True)
class FoldIn(ProtocolOptions):
    """Options of `fold-in`; the defaults are those of Liang et al.

    `n_heldout` users are held out for the test and as many for validation: by default a tenth, at most 10,000.
    Of a held-out user's n items int(test_share * n) are to be found; users with fewer than `min_items` items (after
    those that no training user has are gone) have nothing to be found and are dropped.
    With `liked` an interaction is a rating of at least so much; lower ones are in no history and are not to be found.
    Of those of held-out users a random share, `test_share` again, is kept as `HeldOut.disliked` for `rated_precision`.
    """

    name: ClassVar[str] = "fold-in"
    n_heldout: Count | None = None
    test_share: Share = 0.2
    min_items: Count = 5
    split_seed: Seed = 98765
    liked: float | None = None

    @property
    def judged(self) -> frozenset[Judged]:
        """What metrics can judge under these options."""
        return _RANKING if self.liked is None else frozenset({"ranking", "rated ranking"})

    @property
    def takes_everything(self) -> bool:
        """Whether the filter of a data set is left out unless it is asked for."""
        return self.liked is not None


@dataclass(frozen=True)
class HoldOneOut(ProtocolOptions):
    """Options of `hold-one-out`.

    `n_heldout` users are held out for the test and as many for validation: by default a tenth, at most 40,000, which
    is the whole tenth of the paper's MovieLens and LastFM data (for its web data say n_heldout=10000).
    The `target` is the most recent item (the later row of the source among equal times), a random one, or, by
    default, the most recent where times are known and else a random one.
    """

    name: ClassVar[str] = "hold-one-out"
    target: Literal["auto", "recent", "random"] = "auto"
    n_heldout: Count | None = None
    split_seed: Seed = 98765


@dataclass(frozen=True)
class Fixed(ProtocolOptions):
    """Options of `fixed`.

    Test users are scored by their training rows, and these are never ranked. With `mask_validation` their validation
    items join the history that they are scored by, and are not ranked either; models are fitted to the training rows
    alone all the same. Without, as in the published tables, validation items are ranked and count as misses.
    """

    name: ClassVar[str] = "fixed"
    mask_validation: bool = False

    @property
    def takes_everything(self) -> bool:
        """Whether the filter of a data set is left out unless it is asked for."""
        return True


@dataclass(frozen=True)
class Ratings(ProtocolOptions):
    """Options of `ratings`.

    Of all ratings, whoever gave them, a random `test_share` is to be predicted, and a further `valid_share` by those
    who choose hyper-parameters; the others are for training. The public code of Chen et al. takes a fifth for the test.
    Raises UsageError where nothing is left to train on.
    """

    name: ClassVar[str] = "ratings"
    test_share: Share = 0.2
    valid_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    split_seed: Seed = 98765

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_share + self.valid_share >= 1:
            raise UsageError(
                f"ratings: test_share={self.test_share:g} and valid_share={self.valid_share:g} leave nothing to train"
                " on; expected a sum below 1"
            )

    @property
    def judged(self) -> frozenset[Judged]:
        """What metrics can judge under these options."""
        return frozenset({"ratings"})

    @property
    def takes_everything(self) -> bool:
        """Whether the filter of a data set is left out unless it is asked for."""
        return True


PROTOCOLS: Mapping[str, type[ProtocolOptions]] = MappingProxyType(
    {protocol.name: protocol for protocol in (FoldIn, HoldOneOut, Fixed, Ratings)}
)


def resolve_protocol(name: str, options: Mapping[str, Any] | None = None) -> ProtocolOptions:
    """Return the options of the protocol called `name`, checked and complete.

    Raises UnknownName for a protocol or option that does not exist, UsageError for a value that does not fit.
    """
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return cast(ProtocolOptions, build(PROTOCOLS[name], name, options or {}))


def protocol_text(options: ProtocolOptions) -> str:
    """Return what a person would type for `options`: the name, and the options that are not the default."""
    changed = [
        f"{f.name}={getattr(options, f.name)}"
        for f in fields(options)  # type: ignore[arg-type]
        if getattr(options, f.name) != f.default
    ]
    return f"{options.name}[{','.join(changed)}]" if changed else options.name
