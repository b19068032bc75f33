"""Integer keys that sort like floating-point values, for kernels that search for the largest values."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def key_of(values):
    """Return int32 keys that sort like the values, in as many bits. -0.0 and 0.0 have the same key."""
    plus = (values.to(tl.float32) + 0.0).to(values.dtype)
    if values.dtype.primitive_bitwidth == 16:
        bits = plus.to(tl.int16, bitcast=True).to(tl.int32)
        key = tl.where(bits < 0, bits ^ 0x7FFF, bits)
    else:
        bits = plus.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return key


@triton.jit
def value_of(key, DTYPE: tl.constexpr):
    """Return the value of type DTYPE that a key belongs to, as float32: the inverse of `key_of`."""
    if DTYPE.primitive_bitwidth == 16:
        value = tl.where(key < 0, key ^ 0x7FFF, key).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    else:
        value = tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(DTYPE, bitcast=True)
    return value


@triton.jit
def load_ranked(row, column, size):
    """Load values as int64 keys that sort by value, then by falling column, as `sampling.sampler.rank` does.

    row: pointer to a row's first value. The column of a key is 0x7FFFFFFF minus the key's low 31 bits. Columns from
    `size` on get a key below all others.
    """
    values = tl.load(row + column, mask=column < size, other=float("-inf"))
    ordered = key_of(values.to(tl.float32)).to(tl.int64)
    return tl.where(column < size, (ordered << 32) + (0x7FFFFFFF - column), -0x7FFFFFFFFFFFFFFF)
