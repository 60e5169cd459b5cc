"""Build step: compile Triton's CUDA driver module into a cache folder, so that the image needs no C compiler.

Triton compiles one C file (`cuda_utils`) on first use and keeps it in its cache, keyed by source and platform; its
kernels need no compiler but the `ptxas` that it brings. Without Triton (torch's CPU build) the folder stays empty.

    python compile_triton_driver.py FOLDER
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Part of the key is what the command `file` says of Python, where that command is installed: once for either case.
_COMPILE = """
import platform
from triton.backends.nvidia.driver import CudaUtils
from triton.runtime.build import platform_key
bits, _ = platform.architecture()
for linkage in ("", "ELF"):
    platform.architecture = lambda: (bits, linkage)
    platform_key.cache_clear()
    CudaUtils()
"""


def main(folder: Path) -> None:
    """Compile into ``folder``; exit with a sentence where Triton is there and the module does not come out."""
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("triton") is None:
        print("no Triton here, nothing to compile")
        return
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    with tempfile.TemporaryDirectory() as stub:
        os.environ["TRITON_LIBCUDA_PATH"] = os.environ["LD_LIBRARY_PATH"] = stub
        from triton.backends.nvidia import driver

        _stand_in(Path(driver.include_dirs[0]) / "cuda.h", Path(stub))
        # a process of its own, which looks for libraries where LD_LIBRARY_PATH says now
        subprocess.run([sys.executable, "-c", _COMPILE], check=True)  # noqa: S603  (our own command)
    made = list(folder.glob("*/cuda_utils*.so"))
    if len(made) != 2:
        raise SystemExit(f"Triton's driver module was not compiled into {folder}: found {made}")
    print("compiled", *made)


def _stand_in(header: Path, folder: Path) -> None:
    """Make a libcuda.so.1 with every function of the header, all empty: the real one comes with the host's driver."""
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", header.read_text(encoding="utf-8"))))
    source = folder / "libcuda.c"
    source.write_text("".join(f"int {name}() {{ return 999; }}\n" for name in names), encoding="utf-8")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-w",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(folder / "libcuda.so.1"),
        str(source),
    ]
    subprocess.run(command, check=True)  # noqa: S603  (our own command)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
