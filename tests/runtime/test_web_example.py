"""The example page finds what the runtime in Python finds, in a real browser."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from PIL import Image
from support import REPOSITORY
from tiny_exports import tiny_metadata, write_onnx

import mask2former_runtime

EXAMPLE = REPOSITORY / "runtime/examples/web"
# What the page would show of an image, as the module gives it.
PREDICT = """
async ([url, threshold]) => {
  const ort = await import("./ort/ort.wasm.min.mjs");
  const { load } = await import("./mask2former.js");
  const read = (file) => fetch(file, { cache: "no-store" });
  const model = await load(ort, await (await read("model.onnx")).arrayBuffer());
  const bitmap = await createImageBitmap(
    await (await read(url)).blob(), { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const found = await model.predict(image, threshold ?? undefined);
  return found.map(({ label, name, score, mask }) =>
    ({ label, name, score, mask: Array.from(mask).join("") }));
}
"""


class Files(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path):
        types = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript",
                 ".wasm": "application/wasm"}  # fmt: skip
        return types.get(Path(path).suffix, "application/octet-stream")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A served folder with the page and onnxruntime-web; its address and its path."""
    ort = os.environ.get("ONNXRUNTIME_WEB") or pytest.skip(
        "no onnxruntime-web: ONNXRUNTIME_WEB names the folder dist of the npm package"
    )
    folder = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(EXAMPLE, folder)
    (folder / "ort").symlink_to(Path(ort).resolve())
    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def module_page(browser, site):
    """A page of the same site, for `PREDICT`."""
    page = browser.new_page()
    page.goto(f"{site[0]}?model=none")
    return page


def photo(path: Path, height: int, width: int) -> Path:
    small = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def check(page, folder, image, threshold=None):
    """Compare what the page's module finds with the runtime."""
    model = mask2former_runtime.load(folder / "model.onnx")
    wanted = model.predict(str(image), task="instance", threshold=threshold)
    found = page.evaluate(PREDICT, [image.name, threshold])
    assert len(wanted) > 0
    assert [x["label"] for x in found] == wanted.labels.tolist()
    assert [x["name"] for x in found] == wanted.names
    np.testing.assert_allclose([x["score"] for x in found], wanted.scores, atol=1e-4)
    for x, mask in zip(found, wanted.masks, strict=True):
        pixels = np.frombuffer(x["mask"].encode(), np.uint8).reshape(mask.shape) == ord("1")
        assert np.mean(pixels == mask) >= 0.999


@pytest.mark.parametrize(
    ("size", "spec"),
    [((96, 128), {}), ((300, 500), {"channel_order": "BGR"}), ((70, 111), {"min_size": 0}),
     ((33, 400), {"batch": 2, "height": 64, "width": 96}), ((1, 1), {})],
)  # fmt: skip
def test_instances_are_those_of_the_runtime(module_page, site, size, spec):
    """With images that are made smaller and larger, and padded."""
    folder = site[1]
    write_onnx(folder / "model.onnx", tiny_metadata(**spec))
    check(module_page, folder, photo(folder / "image.png", *size))


@pytest.mark.slow
def test_a_trained_model(module_page, site, trained):
    folder, (model, data) = site[1], trained
    model.export(folder / "model.onnx", overwrite=True)
    for image in sorted((data / "val").iterdir())[:4]:
        check(module_page, folder, Path(shutil.copy(image, folder)), threshold=0.3)


def test_the_page(browser, site):
    address, folder = site
    write_onnx(folder / "model.onnx", tiny_metadata())
    image = photo(folder / "image.png", 90, 120)
    complaints = []
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_function("document.querySelector('#status').textContent.includes('cat, dog')")
    page.set_input_files("#image", image)
    page.wait_for_function("document.querySelector('#status').textContent.includes('pixels in')")
    wanted = mask2former_runtime.load(folder / "model.onnx").predict(str(image), task="instance")
    assert page.locator("#list li b").all_inner_texts() == wanted.names
    page.fill("#threshold", "0.95")
    assert page.inner_text("#list") == "Nothing found."
    page.set_input_files("#model", write_onnx(folder / "other.onnx", None))
    page.wait_for_selector("#status.wrong")
    assert "not an ONNX file that mask2former export wrote" in page.inner_text("#status")
    stored = write_onnx(folder / "stored.onnx", tiny_metadata(channel_order="uint16"))
    page.set_input_files("#model", stored)
    page.wait_for_function(
        "document.querySelector('#status').textContent.includes('takes images as they are stored')"
    )
    page.close()
    assert complaints == []
