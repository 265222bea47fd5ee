"""The client plug-in: identity tokens that outlive the training run."""
