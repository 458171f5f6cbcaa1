"""What was learned, what was forgotten, with error bars: two or more models and text in, bits per byte and their paired differences out.

`stage.evaluate_stage` for a run, `stage.evaluate_models` for any two models, `probe.Probe` for a model in training.
"""
