"""The lessons' exercises: `check("14.1", answer)` says to do, correct, or what is off. It never raises.

A lesson's checkers stand in a file of the lesson's name. To add one, write a function there and name its exercise:

    @exercise("14.1")
    def nearest_bin(answer):
        '''None where the answer is right, else what is off.'''
"""

from __future__ import annotations

from workbook.exercises.registry import all_checkers, ask, check, exercise, verdict

__all__ = ["all_checkers", "ask", "check", "exercise", "verdict"]
