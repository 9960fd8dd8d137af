"""The command prints and writes what the function returns, and names mistakes in one line."""

import json
import re

import numpy as np
import pytest
from coco_sets import made_up_annotations, perturbed, results_of

from mask2former.cli.evaluate_boundary_ap import main
from mask2former.evaluation.boundary import boundary_average_precision


def test_evaluate_boundary_ap(tmp_path, capsys):
    data = made_up_annotations(0)
    results = results_of(data, perturbed(data, 0))
    truth, predictions, output = (tmp_path / name for name in ("truth", "predictions", "scores"))
    truth.write_text(json.dumps(data))
    predictions.write_text(json.dumps(results))
    options = ["--truth", str(truth), "--results", str(predictions), "--workers", "1"]
    assert main([*options, "--output", str(output)]) == 0
    scores = boundary_average_precision(data, results, progress=False)
    np.testing.assert_equal(json.loads(output.read_text()), scores)
    printed = capsys.readouterr().out
    assert f"{scores['AP']:.3f}" in printed and "class90" in printed

    def error_of(arguments):
        with pytest.raises(SystemExit):
            main(arguments)
        return capsys.readouterr().err

    assert re.search(
        r"error: .*No such file or directory",
        error_of([*options, "--output", str(tmp_path / "absent/scores")]),
    )
    results[3]["image_id"] = 12345
    predictions.write_text(json.dumps(results))
    assert re.search(r"error: .*such as image_id 12345", error_of(options))
    predictions.write_text("{")
    assert re.search("predictions is not JSON", error_of(options))
