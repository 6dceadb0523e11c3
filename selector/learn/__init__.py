"""From measurements to a released model: data set, splits, training, evaluation, tracking.

Only the commands ``train``, ``evaluate`` and ``models`` import this package; compiling a network never does.
"""
