from collections.abc import Sequence

from torch import Tensor

INTERFACE: int
STREAM_PAD: int

class Layer:
    def __init__(
        self,
        spec: tuple[int, int, bool, bool, bool],
        sizes: tuple[int, int, int, int, int, int],
        float64: bool,
        segment: int,
        threads: int,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        weights: Sequence[Tensor],
        batch_sizes: Tensor | None,
        out: Tensor,
        gates: Tensor | None,
        cells: Tensor | None,
    ) -> None: ...

class AdjointLayer: ...

class Stream:
    def __init__(self, float64: bool, B: int, sums: Tensor) -> None: ...
    def add(
        self,
        cell: int,
        I: int,
        H: int,
        R: int,
        w_ih: Tensor,
        w_hh: Tensor,
        w_hr: Tensor | None,
        b: Tensor | None,
        b_hn: Tensor | None,
        h: Tensor,
        c: Tensor | None,
    ) -> None: ...
    def step(self, x: Tensor, out: Tensor) -> None: ...

def instruction_set() -> str: ...
def runnable() -> list[str]: ...
def choose(name: str) -> None: ...
def fail_allocation(n: int, /) -> int: ...
def forward(layer: Layer, h_n: Tensor, c_n: Tensor | None) -> None: ...
def backward(
    layer: Layer,
    grad_out: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_x: Tensor | None,
    grad_h_0: Tensor | None,
    grad_c_0: Tensor | None,
    grad_weights: Sequence[Tensor | None],
) -> None: ...
def adjoint_layer(cell: int, H: int, I: int, *tensors: Tensor | None) -> AdjointLayer: ...
def adjoint_norms(
    float64: bool,
    state: int,
    threads: int,
    T: int,
    B: int,
    targets: Tensor,
    count: int,
    layers: Sequence[AdjointLayer],
) -> None: ...
def chunk_steps(cell: int, float64: bool, T: int, B: int, H: int) -> int: ...
def matmul(
    float64: bool, c: Tensor, a: Tensor, b: Tensor, b_transposed: bool, M: int, N: int, K: int, threads: int
) -> None: ...
def activation(float64: bool, logistic: bool, y: Tensor, x: Tensor, n: int) -> None: ...
def flops(threads: int, repeats: int) -> float: ...
