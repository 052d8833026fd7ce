"""Training, validating and applying image classifiers on timm's data, optimisers, schedules and tasks.

The command lines in tools/ call these modules; they need the `tools` extra.
"""
