"""Damaged files of results: evaluated and drawn, or refused in one line."""

import contextlib
import functools
import io
import json
import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from fuzzing import cases, mutated_bytes, mutated_json, one_line, run_cases
from label_files import id_colors, save
from sound_files import HEIGHT, IDS, WIDTH, instance_content, panoptic_content

from mask2former.cli import evaluate_boundary_ap, evaluate_panoptic
from mask2former.structures import Classes
from mask2former.visualization.result_files import ResultFile

CLASSES = Classes(["cat", "tree"], [2, 4], frozenset([0]), [(1, 2, 3), (4, 5, 6)], 255)


def instance_results():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[3:20, 5:30] = 1
    rle = mask_util.encode(mask)["counts"].decode()
    segmentations = ({"size": [HEIGHT, WIDTH], "counts": rle}, [[5, 3, 30, 3, 30, 20.5]])
    return [
        {"image_id": i, "category_id": 2 * i, "score": 0.5, "bbox": [5, 3, 25, 17]}
        | {"segmentation": segmentation}
        for i, segmentation in enumerate(segmentations, start=1)
    ]


def panoptic_results():
    content = panoptic_content()
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["score"] = 0.9
    return content


def semantic_results():
    return [
        {"file_name": f"{r['image_id']}.jpg", **{k: r[k] for k in ("category_id", "segmentation")}}
        for r in instance_results()
    ]


def label_maps():
    content = panoptic_content()
    names = [{"image_id": i, "file_name": f"labels_{i}.png"} for i in (1, 2)]
    return {**content, "annotations": names}


KINDS = [instance_results, panoptic_results, semantic_results, label_maps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz_results")
    for i in (1, 2):
        save(folder / f"{i}.png", id_colors(IDS))
        save(folder / f"labels_{i}.png", (IDS % 2).astype(np.uint8))
    (folder / "instances.json").write_text(json.dumps(instance_content()))
    (folder / "panoptic.json").write_text(json.dumps(panoptic_content()))
    return folder


def evaluate(command, *arguments):
    """Return the error of a command, or None."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            assert command.main([*map(str, arguments), "--workers", "1"]) == 0
        except SystemExit:
            (*_, line) = err.getvalue().splitlines()
            return line[line.index("error: ") :]
    return None


def draw(path):
    """Return the error of drawing the results, or None."""
    try:
        results = ResultFile(str(path), str(path.parent))
        assert results.has_scores in (True, False) and results.some_images()
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for i in (1, 2):
            record = {"file_name": f"images/{i}.jpg", "image_id": i}
            entries = results.find(record)
            for threshold in (None, 0.3) if results.has_scores else (None,):
                if entries is not None:
                    scene = results.scene(entries, image.shape[:2], CLASSES, threshold=threshold)
                    scene.draw(image, CLASSES)
                    scene.summary(CLASSES)
    except ValueError as error:
        return error
    return None


def use(path, kind, folder):
    errors = [draw(path)]
    if kind is instance_results:
        arguments = "--truth", folder / "instances.json", "--results", path
        errors.append(evaluate(evaluate_boundary_ap, *arguments))
    if kind is panoptic_results:
        arguments = "--truth", folder / "panoptic.json", "--truth-folder", folder
        arguments += "--results", path, "--results-folder", folder
        errors.append(evaluate(evaluate_panoptic, *arguments))
    for error in errors:
        assert error is None or one_line(error, "")
    return errors


def use_truth(path, kind, folder):
    """Use a file of results, or of the ground truth, as the ground truth."""
    if kind is instance_results:
        results = folder / "results.json"
        results.write_text(json.dumps(instance_results()))
        error = evaluate(evaluate_boundary_ap, "--truth", path, "--results", results)
    else:
        arguments = "--truth", path, "--truth-folder", folder
        arguments += "--results", folder / "panoptic.json", "--results-folder", folder
        error = evaluate(evaluate_panoptic, *arguments)
    assert error is None or one_line(error, "")


def sound_files(folder, seed):
    for number, kind in enumerate(KINDS):
        path = folder / f"sound_{number}.json"
        path.write_text(json.dumps(kind()))
        errors = use(path, kind, folder)
        assert errors == [None] * len(errors), errors


def damaged(folder, seed):
    rng = random.Random(seed)
    kind, path = rng.choice(KINDS), folder / f"case_{seed}.json"
    as_truth = rng.random() < 0.25 and kind in (instance_results, panoptic_results)
    content = instance_content() if as_truth and kind is instance_results else kind()
    if rng.random() < 0.8:
        path.write_text(json.dumps(mutated_json(content, rng)))
    else:
        path.write_bytes(mutated_bytes(json.dumps(content).encode(), rng))
    (use_truth if as_truth else use)(path, kind, folder)
    path.unlink()


def test_sound_files_are_used(folder):
    run_cases(functools.partial(sound_files, folder), 1)


def test_files_are_used_or_refused(folder):
    run_cases(functools.partial(damaged, folder), cases())


@pytest.mark.parametrize("content", [[5], ["score"], [None], {"annotations": 5}, {}, [[]], 3, "a"])
def test_other_json_is_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    assert one_line(draw(path), path)
    for command in (evaluate_boundary_ap, evaluate_panoptic):
        assert one_line(evaluate(command, "--truth", path, "--results", path), "")
