"""The same launches again without their cost: CUDA graphs around Boltz-2's repeated modules.

A score repeats a few modules many times with tensors of one shape (the diffusion step 100 times, a stack of pair layers
once per recycling), and launching their hundreds of kernels takes longer than running them. Recorded once, they are
replayed with one launch. The kernels, their order and their random offsets are those of the plain call, so the numbers
are too. On a CPU nothing is recorded.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gpu.boltz.denoiser import PackedDenoiser

_KEPT_SHAPES: Final = 8


class Recorder:
    """Where graphs are recorded: one side stream and one memory pool, shared because replays never overlap.

    A tiny graph that is never dropped keeps the pool alive between recordings.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        self._anchor_input = torch.zeros(1, device=device)
        self._anchor = torch.cuda.CUDAGraph()
        self.run(lambda: self._anchor_input + 1)
        self.record(self._anchor, lambda: self._anchor_input + 1)

    def run(self, call: Callable[[], Any]) -> Any:
        """``call()`` on the side stream, ordered after and before the caller's work."""
        caller = torch.cuda.current_stream()
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            result = call()
        caller.wait_stream(self.stream)
        return result

    def record(self, graph: torch.cuda.CUDAGraph, call: Callable[[], Any]) -> Any:
        """Record ``call()`` into ``graph``; nothing runs. Returns the tensors that a replay fills."""
        torch.cuda.synchronize()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                result = call()
            except BaseException:
                # the recording is invalid, which capture_end says too: the first error is the one to know
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any


class ReplayedStack(nn.Module):
    """A stack of pair layers whose recordings are kept by shape: the next ligand of that shape reuses them.

    ``forward(s, z, present)`` as the stack's. The first call of a shape runs plainly, the second records.
    """

    def __init__(self, stack: nn.Module, recorder: Recorder) -> None:
        super().__init__()
        self.stack = stack
        self.enabled = True
        self._recorder = recorder
        self._recordings: OrderedDict[torch.Size, _Recording | None] = OrderedDict()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        if not self.enabled:
            return self.stack(*inputs)  # type: ignore[no-any-return]
        shape = inputs[1].shape
        if shape not in self._recordings:
            self._recordings[shape] = None
            while len(self._recordings) > _KEPT_SHAPES:
                self._recordings.popitem(last=False)
            return self._recorder.run(lambda: self.stack(*inputs))  # type: ignore[no-any-return]
        self._recordings.move_to_end(shape)
        recording = self._recordings[shape]
        if recording is None:
            static = tuple(tensor.clone() for tensor in inputs)
            graph = torch.cuda.CUDAGraph()
            outputs = self._recorder.record(graph, lambda: self.stack(*static))
            recording = self._recordings[shape] = _Recording(graph, static, outputs)
        for kept, given in zip(recording.inputs, inputs, strict=True):
            kept.copy_(given)
        recording.graph.replay()
        s, z = recording.outputs
        return s.clone(), z.clone()

    def forget(self) -> None:
        """Drop every recording and the memory it holds."""
        self._recordings.clear()


class ReplayedDenoiser(nn.Module):
    """The diffusion's score network, recorded once per molecule and stage.

    Between the steps of one sampling only the noisy positions and the time change; every other argument is the
    same object. ``forward`` takes boltz's keyword arguments.
    """

    def __init__(self, network: nn.Module, recorder: Recorder) -> None:
        super().__init__()
        self.network = network
        self.enabled = True
        self._recorder = recorder
        self.forget()

    def forget(self) -> None:
        """Drop the recording and the molecule it belongs to."""
        if isinstance(self.network, PackedDenoiser):
            self.network.forget()
        self._conditioning: object = None
        self._fixed: dict[str, Any] = {}
        self._recording: _Recording | None = None
        self._steps = 0

    def forward(self, *, r_noisy: Tensor, times: Tensor, **fixed: Any) -> Tensor:
        if not self.enabled:
            return self.network(r_noisy=r_noisy, times=times, **fixed)  # type: ignore[no-any-return]
        if fixed["diffusion_conditioning"] is not self._conditioning:
            self.forget()
            self._conditioning = fixed["diffusion_conditioning"]
            self._fixed = fixed
            if not isinstance(self.network, PackedDenoiser):  # which arranges its biases itself
                self._fixed = {**fixed, "diffusion_conditioning": _by_layer(fixed["diffusion_conditioning"])}
        self._steps += 1
        if self._steps == 1:
            return self._recorder.run(  # type: ignore[no-any-return]
                lambda: self.network(r_noisy=r_noisy, times=times, **self._fixed)
            )
        if self._recording is None:
            static = (r_noisy.clone(), times.clone())
            graph = torch.cuda.CUDAGraph()
            output = self._recorder.record(
                graph, lambda: self.network(r_noisy=static[0], times=static[1], **self._fixed)
            )
            self._recording = _Recording(graph, static, output)
        self._recording.inputs[0].copy_(r_noisy)
        self._recording.inputs[1].copy_(times)
        self._recording.graph.replay()
        return self._recording.outputs.clone()  # type: ignore[no-any-return]


def _by_layer(conditioning: Mapping[str, Any]) -> dict[str, Any]:
    """The conditioning with its biases in float32 once instead of at every step, the token bias ordered by layer.

    ``token_trans_bias`` (1 × N × N × layers·heads) keeps its shape and values; each layer's slice becomes
    contiguous in memory, where boltz gathers 64 bytes out of every 1536.
    """
    arranged = dict(conditioning)
    for key in ("q", "c", "atom_enc_bias", "atom_dec_bias", "token_trans_bias"):
        arranged[key] = conditioning[key].float()
    arranged["token_trans_bias"] = arranged["token_trans_bias"].movedim(-1, 0).contiguous().movedim(0, -1)
    return arranged


Replayed = ReplayedStack | ReplayedDenoiser
