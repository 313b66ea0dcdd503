"""The input gate: does a scan show what a model was made for? Asked before the model runs, by each card's own wish."""

from models.gate.judge import Gate, Judgement, load

__all__ = ["Gate", "Judgement", "load"]
