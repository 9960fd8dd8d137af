"""Damaged files of each format end in a report or an error of one message, never a traceback."""

import functools
import json
import random
import shutil

import pytest
from format_sets import splits_of, write_coco
from fuzzing import HOSTILE_VALUES, cases, mutated_bytes, mutated_json, run_cases

from mask2former.data import DatasetError
from mask2former.data.formats.convert import convert_data

FORMATS = ("yolo", "labelme", "voc", "masks", "color-maps", "label-maps", "tool")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    write_coco(root / "coco", [("train", 2), ("val", 1)])
    for to in FORMATS[:-1]:
        convert_data(splits_of(root / "coco"), root / to, to)
    (root / "tool").mkdir()  # COCO with other paths of images
    shutil.copytree(root / "coco/train", root / "tool/images")
    content = json.loads((root / "coco/annotations/instances_train.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"images\\1/{image['file_name']}"
    (root / "tool/result.json").write_text(json.dumps(content))
    return root


def damaged_text(text, rng):
    """Lines whose words are replaced by hostile values, removed or repeated."""
    lines = text.splitlines() or [""]
    for _ in range(rng.randint(1, 4)):
        number = rng.randrange(len(lines))
        words = lines[number].split(" ")
        place, action = rng.randrange(len(words)), rng.random()
        if action < 0.6:
            words[place] = str(rng.choice(HOSTILE_VALUES))
        elif action < 0.8:
            del words[place]
        else:
            words = words * rng.choice([2, 100])
        lines[number] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def check(folder, root, seed):
    rng = random.Random(seed)
    name = FORMATS[seed % len(FORMATS)]
    target = folder / f"{name}_{seed}"
    shutil.copytree(root / name, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for file in rng.sample(files, rng.randint(1, 3)):
        content = file.read_bytes()
        action = rng.random()
        if file.suffix == ".json" and action < 0.7:
            value = mutated_json(json.loads(content), rng)
            file.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
        elif file.suffix in (".txt", ".yaml") and action < 0.7:
            file.write_bytes(damaged_text(content.decode(), rng))
        elif action < 0.9:
            file.write_bytes(mutated_bytes(content, rng))
        elif action < 0.95:
            file.unlink()
        else:
            file.rename(file.with_name(f"{rng.randint(0, 99)}{file.suffix}"))
    try:
        splits = splits_of(target)
        for data in splits.values():
            report = data.check(evaluated=True, pixels=True, classes=None)
            str(report).encode()
            if not report.num_errors:
                data.register(f"fuzz_{name}_{seed}_{id(data)}", report.classes)
    except DatasetError as error:
        text = str(error)
        text.encode()
        assert len(text) < 5000
        assert str(target) in text or "label maps do not name their classes" in text, text
    shutil.rmtree(target)


def test_damaged_files(sound, tmp_path):
    run_cases(functools.partial(check, tmp_path, sound), cases(120))
