"""The demo, as a user runs it, on a Hugging Face folder and on its conversion."""

import json
import subprocess
import sys

import pytest
import torch
from hf_models import BACKBONES, CLASSES, model_config, random_model, save
from PIL import Image
from support import REPOSITORY


def run(script, *arguments):
    command = [sys.executable, REPOSITORY / script, *arguments]
    subprocess.run([str(part) for part in command], check=True, cwd=REPOSITORY, timeout=300)


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_both_give_the_same_instances_of_named_classes(task, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / f"some-{task}-model"
    save(random_model(model_config(BACKBONES["swin"]())), folder)
    config_file = folder / "config.json"
    content = json.loads(config_file.read_text()) | {"mask2former_thing_classes": [0, 1, 4]}
    config_file.write_text(json.dumps(content))
    noise = torch.randint(256, (60, 80, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).resize((160, 120)).save(tmp_path / "photo.png")

    run("tools/convert_checkpoint.py", "--from", "hf", folder, "--to", "d2", tmp_path / "d2/m.pth")
    for config in (folder, tmp_path / "d2/m.yaml"):
        run(
            *("demo/demo.py", "--config-file", config, "--input", tmp_path / "photo.png"),
            *("--output", tmp_path / config.name, "--json", tmp_path / f"{config.name}.json"),
            *("--task", "instance", "--confidence-threshold", "0"),
            *("--opts", "MODEL.DEVICE", "cpu"),
        )
    of_folder, of_yaml = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in (folder.name, "m.yaml")
    )
    assert of_folder == of_yaml
    found = {result["category_id"] for result in of_folder}
    assert found and found <= ({0, 1, 4} if task == "panoptic" else set(range(len(CLASSES))))
    pictures = [tmp_path / name / "photo.png" for name in (folder.name, "m.yaml")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
