"""The lessons' exercises: `check("14.1", answer)` says to do, correct, or what is off. It never raises.

A lesson's checkers stand in a file of the lesson's name. To add one, write a function there and name its exercise:

    @exercise("14.1")
    def nearest_bin(answer):
        '''The bin whose offset is nearest to an edge error.'''
        if answer(0.1) != 25:
            raise Wrong("for an error of 0.1 of the side the nearest bin is 25")
"""

from __future__ import annotations

from workbook.exercises.registry import all_checkers, ask, check, exercise, feedback
