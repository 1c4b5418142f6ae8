def instruction_set() -> str: ...
def runnable() -> list[str]: ...
def choose(name: str) -> None: ...
def fail_allocation(n: int, /) -> int: ...
def forward(
    cell: int,
    float64: bool,
    reverse: bool,
    T: int,
    B: int,
    I: int,
    H: int,
    R: int,
    rows: int,
    batch_sizes: int,
    threads: int,
    x: int,
    x_stride: int,
    h_0: int,
    c_0: int,
    w_ih: int,
    w_hh: int,
    b_ih: int,
    b_hh: int,
    w_hr: int,
    out: int,
    out_stride: int,
    h_n: int,
    c_n: int,
    gates: int,
    cells: int,
    segment: int,
    /,
) -> None: ...
def backward(
    cell: int,
    float64: bool,
    reverse: bool,
    T: int,
    B: int,
    I: int,
    H: int,
    R: int,
    rows: int,
    batch_sizes: int,
    threads: int,
    x: int,
    x_stride: int,
    h_0: int,
    c_0: int,
    w_ih: int,
    w_hh: int,
    b_ih: int,
    b_hh: int,
    w_hr: int,
    out: int,
    out_stride: int,
    gates: int,
    cells: int,
    segment: int,
    grad_out: int,
    grad_out_stride: int,
    grad_h_n: int,
    grad_c_n: int,
    grad_x: int,
    grad_x_stride: int,
    grad_x_add: bool,
    grad_w_ih: int,
    grad_w_hh: int,
    grad_b: int,
    grad_b_hh: int,
    grad_w_hr: int,
    grad_h_0: int,
    grad_c_0: int,
    /,
) -> None: ...
def adjoint_norms(
    float64: bool, state: int, threads: int, T: int, B: int, count: int, targets: int, layers: int, described: int, /
) -> None: ...
def chunk_steps(cell: int, float64: bool, T: int, B: int, H: int, /) -> int: ...
def matmul(
    float64: bool, c: int, a: int, b: int, b_transposed: bool, M: int, N: int, K: int, threads: int, /
) -> None: ...
def activation(float64: bool, logistic: bool, y: int, x: int, n: int, /) -> None: ...
def flops(threads: int, repeats: int, /) -> float: ...
