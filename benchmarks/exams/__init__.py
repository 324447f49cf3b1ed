"""What the exams are made of: configurations, runs, observables, and their pages.

Not for: the command (see `exam.py`).
"""
