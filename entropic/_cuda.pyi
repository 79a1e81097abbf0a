architectures: str
version: str

def problem() -> str: ...
def devices() -> list[str]: ...
def scratch_bytes(rows: int, cols: int) -> int: ...
def reduce_rows(
    dtype: int,
    source: int,
    rows: int,
    cols: int,
    row_stride: int,
    col_stride: int,
    value: int,
    target: int,
    scratch: int,
    device: int,
    stream: int,
) -> None: ...
def log_probabilities(
    dtype: int,
    source: int,
    rows: int,
    cols: int,
    row_stride: int,
    col_stride: int,
    targets: int,
    target_out: int,
    scratch: int,
    device: int,
    stream: int,
) -> None: ...
