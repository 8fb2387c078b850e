"""Training: one loop for every model, what the models are trained on, and the folder that a run leaves."""
