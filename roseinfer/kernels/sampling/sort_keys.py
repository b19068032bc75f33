"""Integers that sort as numbers do, for kernels that look for the largest."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def key_of(values):
    """An integer of as many bits that sorts as the value does, int32; -0.0 is 0.0, which it equals."""
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
    """The value of a dtype that has a key, as float32."""
    if DTYPE.primitive_bitwidth == 16:
        value = tl.where(key < 0, key ^ 0x7FFF, key).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    else:
        value = tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(DTYPE, bitcast=True)
    return value


@triton.jit
def load_ranked(row, column, size):
    """Integers that sort as (value, lower column), int64, as in `sampling.sampler.rank`; less than any past `size`.

    row: a pointer to a row's first value. A column is 0x7FFFFFFF less the low 31 bits.
    """
    values = tl.load(row + column, mask=column < size, other=float("-inf"))
    ordered = key_of(values.to(tl.float32)).to(tl.int64)
    return tl.where(column < size, (ordered << 32) + (0x7FFFFFFF - column), -0x7FFFFFFFFFFFFFFF)
