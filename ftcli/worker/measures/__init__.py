"""Measuring models beside training: on tasks, by chosen measures, against each other, and on what they shall keep."""
