"""The page in a real browser, with a real server."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from browser import chromium
from PIL import Image
from pycocotools.coco import COCO
from servers import photo, png, running

TOKEN = "a-token-of-some-length"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    """Opens the page; what its browser complains about fails the test."""
    pages = []
    complaints: list[str] = []

    def open_page(address: str = "", expected: str = "", **options):
        page = browser.new_page(**options)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda m: (
                complaints.append(m.text)
                if m.type in ("error", "warning") and not (expected and expected in m.text)
                else None
            ),
        )
        pages.append(page)
        page.goto(address or f"http://127.0.0.1:{server.port}/")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def image_file(tmp_path) -> Path:
    path = tmp_path / "holiday photo.png"
    path.write_bytes(png(photo(3, 120, 180)))
    return path


def choose(page, path: Path, task: str | None = None) -> None:
    page.wait_for_selector("#model:not(:empty)")
    page.set_input_files("#file", path)
    if task is not None:
        page.get_by_role("radio", name=task).check()
    wait(page)


def until(page, condition: str) -> None:
    """Wait for a condition; Playwright's own way is stopped by the policy of the page."""
    end = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def wait(page) -> None:
    until(page, "!!result && document.getElementById('busy').hidden")


def listed(page) -> list[str]:
    return [text.replace("\n", " ") for text in page.locator("#list button").all_inner_texts()]


def shown(objects, least: float) -> list[str]:
    return [f"{o['name']} {o['score']:.0%}" for o in objects if o["score"] >= least]


def test_an_image_and_its_objects(visit, server, image_file):
    page = visit()
    choose(page, image_file, "instance")
    content = image_file.read_bytes()
    objects = server.predict(content, "?task=instance&threshold=0.05").json()["objects"]
    expected = shown(objects, 0.5)
    assert 0 < len(expected) < len(objects)
    assert listed(page) == expected
    assert page.locator("#count").inner_text() == f"{len(expected)} of {len(objects)}"


def test_thresholds_of_the_classes_hold_until_one_is_chosen(
    visit, server, make_config, image_file, tmp_path
):
    count = len(server.get("/info").json()["classes"])
    found = [[0.2, 0.55, 0.4][label % 3] for label in range(count)]
    with running(make_config(score_thresholds=found), tmp_path / "log") as server:
        assert server.get("/info").json()["thresholds"] == found
        content = image_file.read_bytes()
        default = server.predict(content, "?task=instance").json()["objects"]
        every = server.predict(content, "?task=instance&threshold=0.05").json()["objects"]
        assert 0 < len(default) < len(every) and len(default) != len(shown(every, 0.5))
        page = visit(f"http://127.0.0.1:{server.port}/")
        choose(page, image_file, "instance")
        assert listed(page) == shown(default, 0)
        assert page.locator("#least").inner_text() == "found for each class"
        page.get_by_role("slider", name="Minimum score").fill("0.3")
        assert listed(page) == shown(every, 0.3)
        assert page.locator("#least").inner_text() == "30%"
        page.close()


def test_moving_the_threshold_asks_nothing_of_the_server(visit, server, image_file):
    page = visit()
    choose(page, image_file, "instance")
    content = image_file.read_bytes()
    objects = server.predict(content, "?task=instance&threshold=0.05").json()["objects"]
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    slider = page.get_by_role("slider", name="Minimum score")
    for least in ("0.3", "0.05", "0.65"):
        slider.fill(least)
        assert listed(page) == shown(objects, float(least))
    slider.fill("1")
    assert page.locator("#none").is_visible()
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert listed(page) == shown(objects, 0.06)
    assert asked == []


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_masks_and_what_is_under_the_pointer(visit, server, image_file, task):
    """At a point, the tip names the smallest object; masks have the pixels that the server sent."""
    page = visit()
    choose(page, image_file, task)
    query = f"?task={task}" + ("&threshold=0.05" if task == "instance" else "")
    objects = server.predict(image_file.read_bytes(), query).json()["objects"]
    masks = [hotcoco.mask.decode(o["segmentation"]).astype(bool) for o in objects]
    order = page.evaluate("result.objects.map(o => o.id)")
    number = {o["id"]: i for i, o in enumerate(objects)}
    for position, id_ in enumerate(order):
        part = page.evaluate(
            f"(() => {{ const s = sample(result.objects[{position}], 180, 120); "
            "return {...s, inside: [...s.inside]}; })()"
        )
        found = np.zeros((120, 180), bool)
        rows, columns = slice(part["y0"], None), slice(part["x0"], None)
        inside = np.array(part["inside"], bool).reshape(part["h"], part["w"])
        found[rows, columns][: part["h"], : part["w"]] = inside
        np.testing.assert_array_equal(found, masks[number[id_]])
    least = 0.5 if task == "instance" else 0
    bounds = page.locator("#canvas").bounding_box()
    names = set()
    rng = np.random.default_rng(0)
    points = [rng.choice(np.argwhere(mask)) for mask in masks]
    points += [rng.integers((0, 0), (120, 180)) for _ in range(6)]
    for y, x in np.array(points) + 0.5:
        page.mouse.move(
            bounds["x"] + x / 180 * bounds["width"], bounds["y"] + y / 120 * bounds["height"]
        )
        here = [
            (o["area"], o["name"] if o["score"] is None else f"{o['name']} {o['score']:.0%}")
            for o, mask in zip(objects, masks, strict=True)
            if mask[int(y), int(x)] and (o["score"] is None or o["score"] >= least)
        ]
        tip = page.locator("#tip")
        assert tip.is_visible() == bool(here)
        if here:
            assert tip.inner_text() == min(here)[1]
            names.add(tip.inner_text())
            assert page.locator("#list button.lit").count() == 1
    assert len(names) > 1


def test_tasks_that_have_no_scores_have_no_threshold(visit, image_file):
    page = visit()
    choose(page, image_file, "semantic")
    assert not page.get_by_role("slider").is_visible()
    assert listed(page)
    page.get_by_role("radio", name="instance").check()
    wait(page)
    assert page.get_by_role("slider").is_visible()


def test_downloads(visit, server, image_file, tmp_path):
    page = visit()
    choose(page, image_file, "instance")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert download.value.suggested_filename == "holiday photo.json"
    download.value.save_as(tmp_path / "a.json")
    coco = COCO(tmp_path / "a.json")
    objects = server.predict(image_file.read_bytes(), "?task=instance").json()["objects"]
    assert [a["score"] for a in coco.anns.values()] == [o["score"] for o in objects]
    for annotation, o in zip(coco.anns.values(), objects, strict=True):
        assert coco.annToMask(annotation).sum() == o["area"]
        assert coco.cats[annotation["category_id"]]["name"] == o["name"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == "holiday photo_segmented.png"
    download.value.save_as(tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    original = np.asarray(Image.open(image_file)).astype(int)
    assert picture.shape == original.shape
    inside = np.any([hotcoco.mask.decode(o["segmentation"]) for o in objects], axis=0)
    changed = (picture != original).any(-1)
    assert changed[inside.astype(bool)].mean() > 0.95
    labels = 0.35  # names may reach out of their objects
    assert changed[~inside.astype(bool)].mean() < labels


def test_dropped_and_pasted_images(visit, image_file):
    page = visit()
    page.wait_for_selector("#model:not(:empty)")
    data = base64.b64encode(image_file.read_bytes()).decode()
    make = (
        f"const bytes = Uint8Array.from(atob('{data}'), c => c.charCodeAt(0));"
        "const t = new DataTransfer(); t.items.add(new File([bytes], 'NAME', {type: 'image/png'}));"
    )
    for name, event in (
        (
            "dropped.png",
            "new DragEvent('drop', {dataTransfer: t, bubbles: true, cancelable: true})",
        ),
        ("pasted.png", "new ClipboardEvent('paste', {clipboardData: t, bubbles: true})"),
    ):
        page.evaluate(
            f"() => {{ {make.replace('NAME', name)} document.body.dispatchEvent({event}); }}"
        )
        until(page, f"!!file && file.name === '{name}' && !!result")


def test_the_keyboard_reaches_everything(visit, image_file):
    page = visit()
    page.wait_for_selector("#model:not(:empty)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    choose(page, image_file, "instance")
    page.locator("#file").focus()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.id || e.name || (e.object && `object ${e.object.id}`))"
                "(document.activeElement)"
            )
        )
    assert reached.index("task") < reached.index("threshold") < reached.index("json")
    assert any(r and r.startswith("object") for r in reached)
    page.locator("#list button").first.focus()
    assert page.evaluate("lit === result.objects[0]")
    names = page.evaluate(
        "[...document.querySelectorAll('button, input')].filter(e => e.offsetParent)"
        ".map(e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || '')"
    )
    assert all(names)


def test_a_file_that_is_no_image(visit, tmp_path):
    (tmp_path / "a.png").write_text("no image at all, but of some length")
    page = visit(expected="422")
    page.wait_for_selector("#model:not(:empty)")
    page.set_input_files("#file", tmp_path / "a.png")
    message = page.locator("#message")
    message.wait_for(state="visible")
    until(page, "document.getElementById('message').innerText.includes('known format')")
    assert message.inner_text() == "a.png: not an image of a known format"
    assert page.locator("#drop").is_visible()
    choose(page, _valid(tmp_path))
    assert not message.is_visible()
    assert not page.get_by_role("button", name="Try again").is_visible()


def test_a_server_that_is_gone(visit, run_config, tmp_path):
    with running(run_config, tmp_path / "log") as mortal:
        page = visit(f"http://127.0.0.1:{mortal.port}/", expected="ERR_CONNECTION_REFUSED")
        choose(page, _valid(tmp_path), "semantic")
    page.get_by_role("radio", name="panoptic").check()
    page.locator("#message").wait_for(state="visible")
    assert page.locator("#message").inner_text() == "The server cannot be reached."
    assert page.get_by_role("button", name="Try again").is_visible()
    assert page.locator("#viewer").is_visible()


def _valid(folder: Path) -> Path:
    (folder / "b.png").write_bytes(png(photo()))
    return folder / "b.png"


def test_a_file_that_is_too_large_is_not_sent(visit, tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(2**20 + 1))
    page = visit()
    page.wait_for_selector("#model:not(:empty)")
    page.set_input_files("#file", tmp_path / "a.png")
    page.locator("#message").wait_for(state="visible")
    assert page.locator("#message").inner_text() == "a.png has 1.0 MiB; the server takes 1."


def test_a_format_that_browsers_do_not_show(visit, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.tif")
    page = visit()
    choose(page, tmp_path / "a.tif", "semantic")
    assert listed(page)
    assert "cannot show" in page.locator("#message").inner_text()


def test_the_token_is_asked_for(visit, run_config, tmp_path):
    with running(run_config, tmp_path / "log", token=TOKEN) as locked:
        page = visit(f"http://127.0.0.1:{locked.port}/", expected="401")
        for token, title in (("wrong", "needs a token"), (TOKEN, "was not the token")):
            until(page, f"document.getElementById('ask-title').innerText.includes('{title}')")
            page.get_by_role("textbox", name="Token").fill(token)
            page.keyboard.press("Enter")
        choose(page, _valid(tmp_path), "semantic")
        assert listed(page)
        page.close()


def test_nothing_is_loaded_from_elsewhere(browser, server, image_file):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{server.port}/")
    choose(page, image_file)
    own = re.compile(rf"(http://127\.0\.0\.1:{server.port}/|data:|blob:)")
    assert asked and all(own.match(url) for url in asked)
    # The policy stops scripts that come into the page in some other way.
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'hacked = 1';"
        " document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        " '<img src=x onerror=\"hacked = 2\">'); }"
    )
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones(visit, image_file, scheme):
    page = visit(viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True)
    choose(page, image_file, "semantic")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    bounds = page.locator("#canvas").bounding_box()
    assert bounds["width"] > 300
    page.touchscreen.tap(bounds["x"] + bounds["width"] / 2, bounds["y"] + bounds["height"] / 2)
    assert page.locator("#tip").is_visible()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(v) for v in re.findall(r"\d+", ground)])
    assert (brightness > 128) == (scheme == "light")


def test_colours_are_those_of_the_package(server, model, image_file):
    """In the middle of the picture that the package draws of one object, its colour shows."""
    image = np.asarray(Image.open(image_file))
    found = model.segmenter("semantic").find(image[:, :, ::-1])
    reply = server.predict(image_file.read_bytes(), "?task=semantic")
    largest = max(reply.json()["objects"], key=lambda o: o["area"])
    color = np.array([int(largest["color"][i : i + 2], 16) for i in (1, 3, 5)])
    picture = np.asarray(found.plot(np.full_like(image, 128)))
    mask = found.mask([o["id"] for o in reply.json()["objects"]].index(largest["id"]))
    inside = np.median(picture[: image.shape[0], : image.shape[1]][mask], axis=0) - 128.0
    assert inside @ (color - 128) / np.linalg.norm(inside) / np.linalg.norm(color - 128) > 0.95


def test_the_page_is_small(server):
    body = server.get("/").body
    assert len(body) < 40_000
    assert json.dumps(body.decode())  # valid UTF-8
    assert io.BytesIO(body).read(15) == b"<!doctype html>"
