"""What a run takes from its user, from the recipe and from its earlier part."""

from pathlib import Path

import pytest
from support import QUICKSTART, REPOSITORY

from mask2former import load_config
from mask2former.config.merge import get_value, written_keys
from mask2former.engine.data_flags import register_run_datasets
from mask2former.engine.settings.choices import KEYS
from mask2former.engine.settings.run_settings import check_length, set_up_run
from mask2former.engine.setup import argument_parser
from mask2former.model_zoo import config_folder, model_names

R50 = REPOSITORY / "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"


def settings(*arguments, config=QUICKSTART):
    """Return the config of a run, and what it says about its choices."""
    args = argument_parser().parse_args(list(map(str, ["--config-file", config, *arguments])))
    check_length(args)
    cfg = load_config(args.config_file, args.opts)
    found = set_up_run(cfg, args, register_run_datasets(cfg, args))
    return cfg, str(found)


@pytest.mark.parametrize("name", ["quickstart/instance", *model_names()[::9]])
def test_runs_on_registered_data_are_as_published(name):
    path = config_folder() / f"{name}.yaml"
    options = ["MODEL.DEVICE", "cpu"]
    cfg, chosen = settings(*options, config=path)
    assert cfg == load_config(str(path), options)
    assert chosen == ""


def test_published_config_on_own_data(shapes):
    cfg, chosen = settings("--data", shapes, "MODEL.DEVICE", "cpu", config=R50)
    assert cfg.SOLVER.MAX_ITER < 2000  # and not 368,750 on 12 images
    assert cfg.INPUT.IMAGE_SIZE == cfg.INPUT.MAX_SIZE_TEST == 128
    assert "SOLVER.MAX_ITER " in chosen and "epochs of 12 images" in chosen


def test_values_of_a_users_file_win_and_those_of_its_base_do_not(shapes, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"_BASE_: {R50}\nSOLVER: {{MAX_ITER: 1234}}\n"
        "INPUT: {MIN_SIZE_TEST: 96}\nMODEL: {DEVICE: cpu}\n"
    )
    keys, base = written_keys(str(file), config_folder())
    assert keys == {"SOLVER.MAX_ITER", "INPUT.MIN_SIZE_TEST", "MODEL.DEVICE"}
    assert Path(base) == R50
    options = ["--data", shapes, "SOLVER.BASE_LR", "0.123"]
    cfg, _ = settings(*options, config=file)
    assert cfg.SOLVER.MAX_ITER == 1234
    assert cfg.SOLVER.BASE_LR == 0.123
    assert cfg.INPUT.MIN_SIZE_TEST == 96 <= cfg.INPUT.MAX_SIZE_TEST < 256
    assert cfg.SOLVER.CHECKPOINT_PERIOD < 1234

    # A file that sets everything, as that of a run does, leaves nothing to choose.
    whole = tmp_path / "config.yaml"
    whole.write_text(cfg.dump())
    again, chosen = settings("--data", shapes, config=whole)
    assert chosen == ""
    assert all(get_value(again, key) == get_value(cfg, key) for key in KEYS)


def test_a_resumed_run_keeps_what_was_chosen(shapes, tmp_path):
    options = ["--data", shapes, "OUTPUT_DIR", tmp_path]
    cfg, _ = settings(*options)
    other = ["SOLVER.IMS_PER_BATCH", 3, "SOLVER.MAX_ITER", 77, "INPUT.IMAGE_SIZE", 96]
    earlier, _ = settings(*options, *other)
    (tmp_path / "config.yaml").write_text(earlier.dump())
    # Without a checkpoint there is nothing to continue.
    assert settings("--resume", *options)[0].SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    resumed, chosen = settings("--resume", *options)
    assert all(get_value(resumed, key) == get_value(earlier, key) for key in KEYS)
    assert f"those of {tmp_path}/config.yaml" in chosen
    longer, _ = settings("--resume", "--epochs", "100", *options)
    assert longer.SOLVER.MAX_ITER == 400
    assert longer.SOLVER.IMS_PER_BATCH == 3


@pytest.mark.parametrize("flag", ["--iterations", "--epochs", "--time-budget"])
def test_a_length_is_given_once(flag, shapes):
    value = "1m" if flag == "--time-budget" else "5"
    with pytest.raises(ValueError, match=f"{flag} and SOLVER.MAX_ITER: give one of them"):
        settings(flag, value, "--data", shapes, "SOLVER.MAX_ITER", 9)


def test_epochs_of_registered_data(shapes):
    cfg, _ = settings("--epochs", 20)
    assert cfg.SOLVER.MAX_ITER == 20 * 12 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.TEST.EVAL_PERIOD <= cfg.SOLVER.MAX_ITER / 4
    assert cfg.SOLVER.BASE_LR == load_config(str(QUICKSTART)).SOLVER.BASE_LR


def test_evaluation_is_at_the_sizes_of_the_config(shapes):
    options = ["--eval-only", "--data", shapes, "MODEL.WEIGHTS", "x.pth"]
    cfg, chosen = settings(*options)
    assert cfg.INPUT == load_config(str(QUICKSTART)).INPUT
    assert chosen == ""
