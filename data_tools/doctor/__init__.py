"""What would ruin a run, found before it starts: `examine` a data folder, `repair` a copy of it."""

from data_tools.doctor.diagnosis import CHECKS, Diagnosis, examine
from data_tools.doctor.finding import Check, Example, Finding
from data_tools.doctor.repairs import Repairs, repair

__all__ = ["CHECKS", "Check", "Diagnosis", "Example", "Finding", "Repairs", "examine", "repair"]
