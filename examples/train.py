"""Train a classifier on scikit-learn's handwritten digits, and keep all of it in MLflow, through the gate.

Needs MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN; no credential of any database or bucket.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EXPERIMENT = "digits"
MODEL = "digits"
EPOCHS = 15


def main() -> None:
    """Train, log, register, load back and predict."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--alpha", type=float, default=0.001, help="strength of the regularisation (0.001)")
    alpha = options.parse_args().alpha
    features, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        features, labels, test_size=0.25, random_state=0, stratify=labels
    )
    scaler = StandardScaler().fit(train_x)
    parameters = {"loss": "log_loss", "alpha": alpha, "random_state": 0}
    classifier = SGDClassifier(**parameters)

    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=f"sgd, alpha {alpha:g}") as run:
        mlflow.log_params({**parameters, "epochs": EPOCHS})
        for epoch in range(EPOCHS):
            classifier.partial_fit(scaler.transform(train_x), train_y, classes=np.unique(labels))
            probabilities = classifier.predict_proba(scaler.transform(test_x))
            mlflow.log_metrics(
                {
                    "loss": log_loss(test_y, probabilities),
                    "accuracy": accuracy_score(test_y, probabilities.argmax(axis=1)),
                },
                step=epoch,
            )
        figure, axes = plt.subplots(figsize=(5, 5))
        ConfusionMatrixDisplay.from_predictions(test_y, probabilities.argmax(axis=1), ax=axes, colorbar=False)
        mlflow.log_figure(figure, "confusion.png")
        model = make_pipeline(scaler, classifier)
        logged = mlflow.sklearn.log_model(model, name="model", input_example=test_x[:2], registered_model_name=MODEL)

    client = MlflowClient()
    client.set_registered_model_alias(MODEL, "champion", logged.registered_model_version)
    champion = mlflow.sklearn.load_model(f"models:/{MODEL}@champion")
    accuracy = accuracy_score(test_y, champion.predict(test_x))
    print(f"version {logged.registered_model_version} of {MODEL}, predicted through the gate: accuracy {accuracy:.3f}")
    print(f"run: {mlflow.get_tracking_uri()}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")


if __name__ == "__main__":
    main()
