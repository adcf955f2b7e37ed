"""Every threshold of the two `shapes` readers and of the answers, each with the band of abstention around it.

An invisible change of the picture must not turn one answer into another. So around each threshold lies a band in which
a reader abstains, about as wide as such a change can move the number it reads. Values are for the 64 px image;
`COARSE_*` stand for pictures that were enlarged (shorter side below `image_ops.COARSE`): enlarging takes contrast from
patterns and none from the noise of the views. Effect and cost of each band are measured in docs/simpleeval.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Band(NamedTuple):
    """A threshold with its band of abstention: below `low` it is not met, above `high` it is."""

    low: float
    high: float

    def met(self, value: float) -> bool | None:
        """Return whether the threshold is met, or None within the band."""
        if value > self.high:
            return True
        return False if value < self.low else None


# -- Objects ----------------------------------------------------------------------------------------------------------
#: Chroma (largest less smallest channel) from which a pixel is of an object. Rendered objects have at least 86.
CHROMA: Final = 52
#: Chroma from which something may be there.
FAINT: Final = 45
#: Chroma that the most vivid fifth of an object must reach, else it is neither there nor not. 75 holds a little more
#: against overlays, but pictures whose colour was stored at half resolution then go unanswered.
VIVID: Final = 65
VIVID_SHARE: Final = 0.2
#: Pixels of the smallest object.
MIN_AREA: Final = 30
#: Distance by which the second nearest prototype colour must be further than the nearest. At 0.06 overlays decide half
#: of the bindings, at 0.15 more saturated pictures go unanswered.
COLOUR_MARGIN: Final = 0.10
#: Quantile of chroma within an object from which on pixels tell its colour: its edge is mixed with what lies behind.
PURE: Final = 0.65

# -- Groups of objects ------------------------------------------------------------------------------------------------
#: Pixels between the mean places of two groups: the renderer's 5 less half a pixel of reading.
DISPLACEMENT: Final = 4.5
#: How many times the other displacement the longer one must be; the renderer's is 1.5.
DISPLACEMENT_RATIO: Final = 1.3
#: Pixels between the nearest centres of two groups along the axis; the renderer's are 5 apart.
CENTRE_GAP: Final = 1.0

# -- Reader A, connected components -----------------------------------------------------------------------------------
#: Share of holes above which a component is a ring. Rendered rings have 0.12 and more, others none.
HOLES: Final = Band(0.04, 0.06)
#: Fourier magnitude of the outline below which it is a circle.
ROUND: Final = Band(0.019, 0.029)
#: How many times the second of the three magnitudes the first must be.
DOMINANT: Final = 1.1
#: Share of the convex hull above which four corners are a square, not a plus: squares have 0.92 and more, pluses 0.92
#: and less. Compressed pluses reach 0.95, so within the wider band a shape is named but outvotes nobody.
SOLID: Final = Band(0.91, 0.925)
FIRM_SOLID: Final = Band(0.907, 0.937)
#: Radius in pixels between small and large: rendered are 5.4 to 6.5 and 9.5 to 10.8.
RADIUS: Final = Band(7.4, 8.1)
FIRM_RADIUS: Final = Band(7.75 - 0.9, 7.75 + 0.9)

# -- Reader B, matched filters ----------------------------------------------------------------------------------------
#: Correlation from which a template is found.
PEAK: Final = 0.62
#: By how much the best shape must beat the next to be named, and to be firm; the same for the two sizes.
SHAPE_MARGIN, COARSE_SHAPE_MARGIN = 0.005, 0.001
FIRM_SHAPE: Final = 0.04
FIRM_SIZE: Final = 0.08


class Patterns(NamedTuple):
    """How strong a pattern must be: below `plain` there is none, above its own number it is that pattern.

    In between a plain background with each pixel moved by 8 levels, or a pattern so weakened, would lie.
    """

    plain: float
    striped: float
    checkered: float
    dotted: float

    def named(self, strength: float, lines: bool | None, checks: bool | None) -> str | None:
        """Return the pattern of a strength; `lines` and `checks` say whether it looks like that, None in between."""
        if lines is None or (checks is None and not lines):
            return None
        kind = "striped" if lines else "checkered" if checks else "dotted"
        return kind if strength > getattr(self, kind) else None


#: Reader A: covariance of neighbouring pixels. White noise has none: plain pictures stay below 2.4, patterns above 67.
COVARIANCE: Final = Patterns(plain=8, striped=100, checkered=60, dotted=48)
COARSE_COVARIANCE: Final = Patterns(plain=10, striped=30, checkered=12, dotted=22)
#: Reader B: spectral energy per pixel above the floor of the noise.
ENERGY: Final = Patterns(plain=8, striped=85, checkered=75, dotted=52)
COARSE_ENERGY: Final = Patterns(plain=12, striped=50, checkered=32, dotted=42)
#: Share of the variance that lies in rows or in columns, and of the energy in one axis, of stripes.
LINES: Final = Band(0.72, 0.85)
ROWS: Final = Band(0.45, 0.55)
#: Distance of the bright share from one half: checks are half bright, dots less.
HALF: Final = Band(0.07, 0.11)
#: Strongest peak of the spectrum off the axes over that on them: checks lie off, dots on the axes.
OFF_AXES: Final = Band(0.7, 2.0)
