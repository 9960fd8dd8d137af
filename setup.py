"""Build script; the project's metadata is in pyproject.toml.

Compiles the deformable-attention operator into `mask2former/_C*.so`. This needs a compiler and an
installed PyTorch, which pip's build isolation hides:
`pip install --no-build-isolation ./runtime .`. Without them the install is pure Python.
`python -m mask2former.collect_env` shows which one is installed.

Environment variables:
    FORCE_CUDA=1          compile the CUDA kernels even without a GPU; stop if that fails
    FORCE_CPU=1           compile no CUDA kernels
    FORCE_PURE_PYTHON=1   compile nothing
    CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS: as for any extension of PyTorch
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = Path("mask2former/modeling/ops/csrc")


class BuildWithConfigs(build_py):
    """Copies `configs/` into the package, where `mask2former.model_zoo` looks first.

    An editable install needs no copy: the checkout is next to the package.
    """

    def run(self):
        """Build as setuptools does, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "mask2former/model_zoo/configs")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree("configs", target)


def wanted(variable: str) -> bool:
    """Tell whether an environment variable is set to anything but 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def find_cuda_home() -> Path | None:
    """Find the CUDA toolkit; a wrapper script called nvcc, as in /usr/local/bin, does not count."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [nvcc and Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    for candidate in filter(None, candidates):
        if Path(candidate, "bin/nvcc").exists() and Path(candidate, "nvvm").is_dir():
            return Path(candidate).resolve()
    return None


def why_no_cuda(torch, cuda_home: Path | None) -> str:
    """Return the reason why CUDA kernels cannot be compiled, or "" if they can."""
    if torch.version.cuda is None:
        return f"the installed PyTorch {torch.__version__} is a build without CUDA"
    if cuda_home is None:
        return (
            f"there is no CUDA toolkit (nvcc): install version {torch.version.cuda}, and set "
            "CUDA_HOME if it is not in /usr/local/cuda"
        )
    return ""


def nvidia_wheels() -> list[Path]:
    """List the folders of CUDA's parts that pip installed with PyTorch."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    return [folder for root in roots for folder in sorted(root.iterdir()) if folder.is_dir()]


def cuda_extension(cpp_extension, arguments):
    """Build the extension with the CUDA kernels, against the CUDA libraries of PyTorch."""
    wheels = nvidia_wheels()
    # Headers of PyTorch's CUDA libraries, which nvcc alone does not have.
    arguments["include_dirs"] = [str(f / "include") for f in wheels if (f / "include").is_dir()]
    runtime = [so for f in wheels for so in sorted((f / "lib").glob("libcudart.so.*"))]
    extension = cpp_extension.CUDAExtension("mask2former._C", **arguments)
    if runtime:  # -lcudart looks for a name without a version
        extension.libraries = [name for name in extension.libraries if name != "cudart"]
        extension.extra_link_args.append(str(runtime[0]))
    return extension


def extensions() -> dict:
    """Return the arguments of `setup` that compile the operator, or none for pure Python."""
    forced = wanted("FORCE_CUDA")
    if wanted("FORCE_PURE_PYTHON"):
        return {}
    cuda_home = find_cuda_home()
    if cuda_home:
        os.environ["CUDA_HOME"] = str(cuda_home)
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        if forced:
            sys.exit(
                f"FORCE_CUDA is set, but there is no PyTorch to compile with ({error}): install it "
                "first, then use pip install --no-build-isolation"
            )
        print("No PyTorch to compile with: pure-Python install (see setup.py)")
        return {}
    problem = why_no_cuda(torch, cuda_home)
    if forced and problem:
        sys.exit(f"FORCE_CUDA is set, but {problem}")
    use_cuda = forced or (not problem and torch.cuda.is_available() and not wanted("FORCE_CPU"))

    folders = ["", "cpu", "cuda"] if use_cuda else ["", "cpu"]
    sources = [
        str(path.relative_to(ROOT))
        for folder in folders
        for suffix in ("cpp", "cu")
        for path in sorted((ROOT / CSRC / folder).glob(f"*.{suffix}"))
    ]
    # OpenMP shares PyTorch's threads. Apple's compiler does not have it.
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    arguments = {
        "sources": sources,
        "extra_link_args": openmp,
        "py_limited_api": True,  # it does not use Python: it works with any version
        "extra_compile_args": {
            # Contraction computes a * b + c in one step. Psabi warns about vectors as arguments.
            "cxx": [*(ROOT / CSRC / "cpu/compile_flags.txt").read_text().split(), *openmp],
            "nvcc": ["-O3"],
        },
    }
    if use_cuda:
        extension = cuda_extension(cpp_extension, arguments)
    else:
        extension = cpp_extension.CppExtension("mask2former._C", **arguments)

    class Build(cpp_extension.BuildExtension):
        """Continues without the operator if it cannot be compiled and is not forced."""

        def run(self):
            try:
                super().run()
            # A compiler may fail in any way.
            except Exception as error:
                if forced:
                    raise
                print(f"The operator is not compiled: {error}\nPure-Python install (see setup.py)")

    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


compiled = extensions()
setup(
    ext_modules=compiled.get("ext_modules", []),
    cmdclass={"build_py": BuildWithConfigs, **compiled.get("cmdclass", {})},
)
