"""Simulated users: where the next click goes, and when to stop."""

from voxclick.simulation.stopping import (
    DeepGrowProbability,
    MaxSteps,
    MaxStepsOrDice,
    MaxStepsOrProbability,
    MaxStepsProbabilityDice,
    StoppingCriterion,
    UniformSteps,
)
from voxclick.simulation.strategies import (
    ClickStrategy,
    Corrective,
    DeepGrow,
    LargestError,
    NonCorrective,
    PatchCorrective,
    SimulatedClick,
    Weighting,
)
from voxclick.simulation.user import SimulatedUser, SimulationSettings

__all__ = [
    "ClickStrategy",
    "Corrective",
    "DeepGrow",
    "DeepGrowProbability",
    "LargestError",
    "MaxSteps",
    "MaxStepsOrDice",
    "MaxStepsOrProbability",
    "MaxStepsProbabilityDice",
    "NonCorrective",
    "PatchCorrective",
    "SimulatedClick",
    "SimulatedUser",
    "SimulationSettings",
    "StoppingCriterion",
    "UniformSteps",
    "Weighting",
]
