"""`mask2former check`."""

import json
import shutil

import pytest
from format_sets import write_coco

from mask2former.cli.main import main


def test_sound_data(datasets, capsys):
    assert main(["check", "--data", str(datasets / "synthetic_shapes"), "--task", "instance"]) == 0
    out = capsys.readouterr().out
    assert "for instance segmentation" in out
    assert "instances_train.json: 12 images" in out
    assert "instances_val.json: 4 images" in out


def test_label_maps_take_the_names_of_the_command_line(datasets, tmp_path, capsys):
    folder = tmp_path / "maps"
    shapes = datasets / "synthetic_shapes"
    shutil.copytree(shapes / "val", folder / "images")
    shutil.copytree(shapes / "semantic_val", folder / "labels")
    with pytest.raises(SystemExit) as end:
        main(["check", "--data", str(folder)])
    assert end.value.code == 1
    assert "--classes" in capsys.readouterr().err
    names = json.loads((shapes / "annotations/panoptic_val.json").read_text())["categories"]
    (tmp_path / "names.txt").write_text("\n".join(c["name"] for c in names))
    assert main(["check", "--data", str(folder), "--classes", str(tmp_path / "names.txt")]) == 0
    assert "4 images" in capsys.readouterr().out


def test_what_training_would_miss_is_said(datasets, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(datasets / "synthetic_shapes", folder)
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    image = content["images"][0]["id"]
    dot = {"segmentation": [[5, 5, 6, 5, 6, 6, 5, 6]], "bbox": [5, 5, 1, 1], "area": 1}
    content["annotations"] += [
        {"id": 10_000 + i, "image_id": image, "iscrowd": 0, "category_id": 1, **dot}
        for i in range(5)
    ]
    file.write_text(json.dumps(content))
    assert main(["check", "--data", str(folder), "--task", "instance"]) == 0
    out = capsys.readouterr().out
    assert "With the settings that `mask2former train` would choose" in out
    assert "WARNING 5 of " in out and "INPUT." in out


def test_labelme_files_beside_their_images(tmp_path, capsys):
    """The layout that LabelMe itself writes, without folders."""
    source = write_coco(tmp_path / "coco", [("train", 3)])
    (source / "annotations/instances_train.json").rename(
        source / "annotations/instances_default.json"
    )
    (source / "train").rename(source / "images")
    assert main(["convert-data", str(source), str(tmp_path / "lm"), "--to", "labelme"]) == 0
    assert (tmp_path / "lm/train_0.json").is_file()
    assert main(["check", "--data", str(tmp_path / "lm")]) == 0
    out = capsys.readouterr().out
    assert "LabelMe JSON, for instance segmentation" in out and "  all: .\n" in out


def test_every_error_is_listed(datasets, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(datasets / "synthetic_shapes", folder)
    file = folder / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 99
    content["images"][1]["file_name"] = "gone.png"
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        main(["check", "--data", str(folder), "--task", "instance"])
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert "mask2former check: error: the data cannot be used as it is" in err
    assert "99" in err
    assert "gone.png" in err
