"""What test_triton.py runs in processes of its own; not a test.

Triton decides when it is imported, from the environment, between its interpreter and the compiler.

    triton_worker.py run CASES RESULTS
    triton_worker.py compile RESULTS CAPABILITIES CHANNELS
"""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from mask2former.modeling.ops import triton_kernels

# Triton's names of (value, locations and weights)
PAIRS = [
    ("fp32", "fp32"),
    ("fp64", "fp64"),
    ("bf16", "bf16"),
    ("bf16", "fp32"),
    ("fp16", "fp16"),
    ("fp16", "fp32"),
]
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


def run(cases, results):
    """Results of the cases, each a dict of "arguments" and "grad_output", by their names."""
    assert triton_kernels.unavailable_reason() is None, triton_kernels.unavailable_reason()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = torch.load(cases)
    found = {"guarded": wrong_metadata(cases.pop("guarded"), device)}
    for name, case in cases.items():
        arguments = [tensor.to(device) for tensor in case["arguments"]]
        if case.get("metadata_on_cpu"):
            arguments[1:3] = case["arguments"][1:3]
        grad_output = case["grad_output"].to(device)
        output = triton_kernels.ms_deform_attn_triton(*arguments)
        grads = triton_kernels.ms_deform_attn_backward_triton(grad_output, *arguments)
        found[name] = [tensor.cpu() for tensor in (output, *grads)]
    found["deterministic"] = deterministic(cases["float32"], device)
    torch.save(found, results)


def wrong_metadata(case, device):
    """Launch with metadata that lies, which nobody checks on a GPU, inside of guarded buffers."""
    buffer, grad_buffer, grad_output = (
        case[name].to(device) for name in ("buffer", "grad_buffer", "grad_output")
    )
    _, shapes, starts, locations, weights = (x.to(device) for x in case["arguments"])
    guard = case["guard"]
    value, grad_value = (x[guard:-guard].view(case["shape"]) for x in (buffer, grad_buffer))
    output = torch.empty_like(grad_output)
    grads = [grad_value, torch.empty_like(locations), torch.empty_like(weights)]
    inputs = [value, shapes, starts, locations, weights]
    triton_kernels._launch("forward_kernel", 4, inputs, [output])
    triton_kernels._launch("backward_kernel", 4, [*inputs, grad_output], grads)
    return [tensor.cpu() for tensor in (output, grad_buffer, *grads[1:])]


def deterministic(case, device):
    """The error and the warning that determinism brings."""
    arguments = [tensor.to(device) for tensor in case["arguments"]]
    arguments = [case["grad_output"].to(device), *arguments]
    messages = []
    torch.use_deterministic_algorithms(True)
    try:
        triton_kernels.ms_deform_attn_backward_triton(*arguments)
    except RuntimeError as error:
        messages.append(str(error))
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        triton_kernels.ms_deform_attn_backward_triton(*arguments)
    messages += [str(w.message) for w in caught if "deterministic" in str(w.message)]
    torch.use_deterministic_algorithms(False)
    return messages


def compile_all(results, capabilities, channels):
    """Compile every program for GPUs that need not be there; report what ptxas made of them."""
    from mask2former.modeling.ops import triton_jit

    found = {}
    for capability in json.loads(capabilities):
        for D in json.loads(channels):
            for value, coordinates in PAIRS:
                for kernel in (triton_jit.forward_kernel, triton_jit.backward_kernel):
                    compiled = compile_one(kernel, value, coordinates, capability, D)
                    name = f"{kernel.fn.__name__} {value} {coordinates} sm_{capability} D={D}"
                    found[name] = usage(compiled, Path(results).with_suffix(".cubin"))
    Path(results).write_text(json.dumps(found))


def compile_one(kernel, value, coordinates, capability, D):
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    total = "fp64" if value == "fp64" else "fp32"
    types = {
        "value": value,
        "shapes": "i64",
        "starts": "i64",
        "locations": coordinates,
        "weights": coordinates,
        "output": value,
        "grad_output": value,
        "grad_value": total,
        "grad_locations": coordinates,
        "grad_weights": coordinates,
    }
    backward = "grad_output" in kernel.arg_names
    constants = triton_kernels.tile(D, BYTES[total if backward else value])
    warps = constants.pop("num_warps")
    constants |= {"D": D, "ACC": tl.float64 if total == "fp64" else tl.float32}
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
        elif name in types:
            # PyTorch's allocations start at multiples of 16 bytes and more.
            signature[name], attributes[(i,)] = f"*{types[name]}", [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    return triton.compile(
        triton.compiler.ASTSource(kernel, signature, values, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
    )


def usage(compiled, path):
    """Registers and bytes of local memory (spilled registers) of a thread."""
    import triton.backends.nvidia

    path.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    text = subprocess.run(
        [tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True
    ).stdout
    found = {key: int(number) for key, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "local": found["STACK"] + found["LOCAL"]}


if __name__ == "__main__":
    {"run": run, "compile": compile_all}[sys.argv[1]](*sys.argv[2:])
