"""What needs an accelerator."""

import os

# cuBLAS reads it when CUDA starts, whichever model starts it; Boltz-2's reproducibility rests on it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
