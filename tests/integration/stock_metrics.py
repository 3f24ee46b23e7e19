"""Print, as JSON, how SecretFlow evaluates the samples of `tests.data.scores` (a script)."""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd

from tests.data.scores import Array, classifications, regressions

BUCKETS = 100


def _classification(party: Any, label: Array, score: Array) -> dict[str, Any]:
    import secretflow as sf
    from secretflow.data import partition
    from secretflow.data.vertical import VDataFrame
    from secretflow.stats import BiClassificationEval

    frames = [
        VDataFrame({party: partition(data=party(lambda data=data: pd.DataFrame({"c": data}))())})
        for data in (label, score)
    ]
    report = sf.reveal(BiClassificationEval(*frames, BUCKETS).get_all_reports())
    summary = report.summary_report
    return {
        "auc": float(summary.auc),
        "ks": float(summary.ks),
        "f1": float(summary.f1_score),
        "head": [
            [float(head.fpr), float(head.precision), float(head.recall)]
            for head in report.head_report
        ],
    }


def _regression(party: Any, label: Array, prediction: Array) -> dict[str, float]:
    import secretflow as sf
    from secretflow.data import FedNdarray, PartitionWay
    from secretflow.stats import RegressionEval

    arrays = [
        FedNdarray({party: party(lambda data=data: data.reshape(-1, 1))()}, PartitionWay.VERTICAL)
        for data in (label, prediction)
    ]
    evaluation = RegressionEval(*arrays)
    evaluation.gen_all_reports()
    names = {"r2": "r2_score", "mape": "mean_abs_percent_err", "mse": "mean_squared_errors"}
    return {name: float(sf.reveal(getattr(evaluation, stock))) for name, stock in names.items()}


def main() -> None:
    """Evaluate all samples in one process."""
    import secretflow as sf

    sf.init(["alice", "bob"], debug_mode=True, logging_level="error")
    alice = sf.PYU("alice")
    label, score = classifications()["plain"]
    answers: dict[str, Any] = {
        name: _classification(alice, *sample) for name, sample in classifications().items()
    }
    answers["labels 1 and 2"] = _classification(alice, label + 1, score)
    answers |= {name: _regression(alice, *sample) for name, sample in regressions().items()}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
