"""Libraries that give onnxruntime and OpenVINO the attention operator.

They are compiled from the sources of the CPU kernels in `csrc/cpu/`, so that a model which was
exported with the operator as one node runs at the speed of this package, with the same numbers.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mask2former_runtime.files import moved_at_the_end

RUNTIMES = ("onnxruntime", "openvino")
CSRC = Path(__file__).parent / "csrc"
_SHARED_SOURCES = (
    "arguments.cpp",
    "cpu/choice.cpp",
    "cpu/kernels_avx2.cpp",
    "cpu/kernels_avx512.cpp",
    "cpu/kernels_portable.cpp",
    "runtimes/attention.cpp",
)
_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-DMASK2FORMER_FORWARD_ONLY")


def library_name(runtime: str) -> str:
    """Return the name of the file that `build_libraries` makes for a runtime."""
    return f"libmask2former_{runtime}.so"


def build_libraries(runtimes: Iterable[str], output: str | os.PathLike[str]) -> list[Path]:
    """Compile the operator for runtimes, which takes some ten seconds.

    onnxruntime, any version from 1.17 on, loads its library with
    ``SessionOptions.register_custom_ops_library(path)``. OpenVINO, only the version that is
    installed here, loads its library with ``Core.add_extension(path)``.

    Args:
        runtimes: of `RUNTIMES`.
        output: the folder for the libraries, made if missing.

    Returns:
        The files, in the order of `runtimes`.

    Raises:
        ValueError: a runtime is not known, there is no C++ compiler, or it fails.
        ImportError: OpenVINO, whose headers its library needs, is not installed.
    """
    runtimes = list(runtimes)
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise ValueError(f"the operator has no library for {runtime!r}, only {RUNTIMES}")
    compiler = _find_compiler()
    openvino = _openvino_flags() if "openvino" in runtimes else ([], [])
    flags = [*_FLAGS, *(CSRC / "cpu/compile_flags.txt").read_text().split()]
    with moved_at_the_end(Path(output).absolute()) as folder, tempfile.TemporaryDirectory() as own:

        def compile_source(source: str) -> str:
            target = os.path.join(own, source.replace("/", "_") + ".o")
            includes = openvino[0] if source == "runtimes/openvino.cpp" else []
            _run([compiler, *flags, *includes, "-c", source, "-o", target])
            return target

        sources = [*_SHARED_SOURCES, *(f"runtimes/{runtime}.cpp" for runtime in runtimes)]
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_source, sources))
        shared = objects[: len(_SHARED_SOURCES)]
        for runtime, entry in zip(runtimes, objects[len(shared) :], strict=True):
            libraries = openvino[1] if runtime == "openvino" else []
            target = str(folder / library_name(runtime))
            _run([compiler, "-shared", entry, *shared, *libraries, "-o", target])
    return [Path(output) / library_name(runtime) for runtime in runtimes]


def _find_compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else ("g++", "clang++", "c++"):
        found = shutil.which(name)
        if found:
            return found
    if wanted:
        raise ValueError(f"the environment variable CXX is {wanted!r}, which is not a program")
    raise ValueError(
        "there is no C++ compiler: install g++ 12 or newer (apt-get install g++), or name another "
        "in the environment variable CXX"
    )


def _openvino_flags() -> tuple[list[str], list[str]]:
    """Return what compiles and what links with the installed OpenVINO, which is not imported."""
    spec = importlib.util.find_spec("openvino")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ImportError(
            "the library for OpenVINO is compiled with OpenVINO's headers: "
            'pip install "mask2former[openvino]"'
        )
    root = Path(folders[0])
    libraries = [path for name in ("openvino", "tbb") for path in root.glob(f"libs/lib{name}.so*")]
    if not (root / "include/openvino").is_dir() or len(libraries) < 2:
        raise ImportError(
            f"OpenVINO in {root} does not bring headers and libraries: install the package "
            '`openvino` of PyPI, pip install "mask2former[openvino]"'
        )
    # Warnings in its headers are not ours.
    compile_flags = ["-isystem", str(root / "include"), "-DOV_THREAD=OV_THREAD_TBB"]
    return compile_flags, [*map(str, libraries), f"-Wl,-rpath,{root / 'libs'}"]


def _run(command: Sequence[str]) -> None:
    # In the folder of the sources, so that error messages name these without the rest of the path.
    done = subprocess.run(command, cwd=CSRC, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first_error = next((line for line in lines if "error" in line), lines[0])
        raise ValueError(f"{command[0]} failed: {first_error}")
