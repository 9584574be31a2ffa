"""What a score is given as, by name. Light on purpose: the command line reads it before torch is there."""

from __future__ import annotations

from typing import Literal

ScoreAs = Literal["cosine", "percentile", "match_percentile", "probability"]

# The largest score of each, the smallest of cosines being -1 and else 0; how many decimals people read.
LARGEST: dict[ScoreAs, float] = {"cosine": 1, "percentile": 100, "match_percentile": 100, "probability": 1}
DECIMALS: dict[ScoreAs, int] = {"cosine": 4, "percentile": 2, "match_percentile": 2, "probability": 4}
