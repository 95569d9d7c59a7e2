"""Folders of runs as the trainer writes them, with figures made up: for the tests of what reads them."""

import csv
import json
from dataclasses import asdict

from tinymnv1.trainer import COLUMNS


def write_run(folder, config, accuracies, losses=None, seconds=60.0):
    """config.json, and a metrics.csv with an epoch for each accuracy."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    held_out = "validation" if config.validation else "test"
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([name.replace("test", held_out) for name in COLUMNS])
        for k, accuracy in enumerate(accuracies):
            loss = losses[k] if losses else 1 - accuracy
            writer.writerow([k + 1, 10 * (k + 1), 0.1, loss, accuracy, loss, accuracy, 1000.0 + k, seconds])
    return folder
