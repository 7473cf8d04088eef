"""What counts: the conventions of this package and of the papers whose figures it is compared with.

A ratio means something only inside one profile. The published ones differ in the vision tower, in the text that is
counted, in the output head and in what they call a FLOP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from steadyvlm.errors import UnknownName

Tower = Literal["feature", "all", "none"]
Head = Literal["last", "all", "none"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One convention.

    Attributes:
        name: how it is asked for.
        note: where it comes from and what it is good for.
        operations: per multiply-accumulate: 2 when a FLOP is one operation, 1 in papers that call the pair one FLOP.
        tower: layers of a CLIP tower that count: those up to the feature layer, all of the checkpoint, or no tower.
        connector: whether connector and merger count.
        head: positions of the output head that count.
        mlp_matrices: 3, or 2 in papers that take the gated MLP for a plain one.
        last_layer_row: whether only the last prompt position asks in the last layer, as in this engine.
        text: text tokens to count in place of the prompt's own; None for its own.
        scoring: whether choosing tokens counts.
        decode: whether generated tokens count.
        fitted: whether a constant was fitted to published figures, so that agreement proves little.
    """

    name: str
    note: str
    operations: int = 2
    tower: Tower = "feature"
    connector: bool = True
    head: Head = "last"
    mlp_matrices: int = 3
    last_layer_row: bool = False
    text: int | None = None
    scoring: bool = True
    decode: bool = True
    fitted: bool = False


PROFILES: Mapping[str, Profile] = {
    item.name: item
    for item in (
        Profile("default", "the whole answer: tower, connector, decoder, last row of the head, scoring, decoding"),
        Profile(
            "engine",
            "as default, but the last layer answers for the last prompt position only, as this engine runs it",
            last_layer_row=True,
        ),
        Profile(
            "lofi",
            "Sun et al. 2025, arXiv 2503.06794v2, Table 1: one forward pass over the prompt, all 24 layers of the "
            "tower, output head on all positions, spectra not counted",
            tower="all",
            head="all",
            scoring=False,
            decode=False,
        ),
        Profile(
            "quota-table4",
            "Li et al. 2026, arXiv 2604.17320, Table 4: no single convention gives its ratios; these constants come "
            "nearest (0.7 points)",
            tower="none",
            connector=False,
            head="none",
            mlp_matrices=2,
            text=5,
            scoring=False,
            decode=False,
            fitted=True,
        ),
        Profile(
            "fastv-paper",
            "Chen et al. 2024, arXiv 2403.06764, section 4.2: 4nD^2 + 2n^2D + 2nDM a layer, decoder only, a "
            "multiplication with its addition called one FLOP",
            operations=1,
            tower="none",
            connector=False,
            head="none",
            mlp_matrices=2,
            scoring=False,
            decode=False,
        ),
    )
}
"""Known profiles by name."""


def profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        UnknownName: with the closest known name.

    >>> profile("lofi").head
    'all'
    """
    if name not in PROFILES:
        raise UnknownName.among("cost profile", name, PROFILES)
    return PROFILES[name]
