"""Sending 64-bit words to the memory of another GPU, and waiting for theirs, inside Triton kernels.

A word has arrived once it differs from `SENTINEL`, so no flags travel (Lamport's protocol, as in TensorRT-LLM's
all-reduce). Words are multiples of the elements of an activation: a word that equals the sentinel is sent as 0, which
changes nothing but the sign of zeros.
"""

from roseinfer.kernels.runtime import HAS_TRITON, INTERPRETED, tl, triton

SENTINEL = -0x7FFF7FFF7FFF8000
"""0x8000800080008000: four 16-bit floating-point numbers -0.0."""

_SENTINEL = tl.constexpr(SENTINEL) if HAS_TRITON else SENTINEL
_INTERPRETED = tl.constexpr(INTERPRETED) if HAS_TRITON else INTERPRETED
_POLLS = 1 << 14
"""Polls of a word between two looks at the abort flag, which lies in the host's memory: some milliseconds."""

_PUSH = """
    st.relaxed.sys.global.b64 [$1], $2;
    mov.u32 $0, 0;
"""

_POLL = f"""
{{
    .reg .pred %arrived, %again;
    .reg .u32 %polls, %stop;
    mov.u32 %polls, 0;
    mov.u32 $2, 0;
    mov.u32 $3, 0;
    setp.ne.u32 %again, $8, 0;
    @%again bra GIVE_UP;
POLL:
    ld.relaxed.sys.global.b64 $0, [$4];
    ld.relaxed.sys.global.b64 $1, [$5];
    setp.ne.b64 %arrived, $0, 0x8000800080008000;
    setp.ne.and.b64 %arrived, $1, 0x8000800080008000, %arrived;
    @%arrived bra DONE;
    add.u32 %polls, %polls, 1;
    setp.lt.u32 %again, %polls, {_POLLS};
    @%again bra POLL;
    mov.u32 %polls, 0;
    ld.relaxed.sys.global.u32 %stop, [$6];
    setp.eq.u32 %again, %stop, 0;
    @%again bra POLL;
GIVE_UP:
    mov.u64 $0, 0;
    mov.u64 $1, 0;
    mov.u32 $2, 1;
    mov.u32 $3, 1;
DONE:
}}
"""
_PUSH_ASM, _POLL_ASM = (tl.constexpr(asm) if HAS_TRITON else asm for asm in (_PUSH, _POLL))


@triton.jit
def push_words(places, words):
    """Store words, none of which is the sentinel, to places in the memory of any GPU."""
    if _INTERPRETED:
        tl.store(places, words)
    else:
        tl.inline_asm_elementwise(_PUSH_ASM, "=r,l,l", [places, words], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def poll_words(places, abort, gave_up):
    """Wait for the words at places of this GPU's memory. Returns (words, late).

    late is 1 where the wait was given up, since the flag at the address `abort` is set, or `gave_up` is not 0. The
    interpreter does not wait.
    """
    if _INTERPRETED:
        words = tl.load(places)
        late = (words == _SENTINEL).to(tl.int32)
    else:
        words, late = tl.inline_asm_elementwise(
            _POLL_ASM,
            "=&l,=&l,=&r,=&r,l,l,l,l,r,r",
            [places, abort, gave_up],
            dtype=(tl.int64, tl.int32),
            is_pure=False,
            pack=2,
        )
    return words, late


@triton.jit
def without_sentinel(words):
    """Return words in a form in which they can be sent."""
    return tl.where(words == _SENTINEL, tl.zeros_like(words), words)


@triton.jit
def clear_words(places):
    """Store the sentinel at places of this GPU's memory, which then wait for words again."""
    tl.store(places, tl.full(places.shape, _SENTINEL, tl.int64))


@triton.jit
def element(words, INDEX: tl.constexpr, DTYPE: tl.constexpr):
    """Return one of the four 16-bit numbers in each word, as float32."""
    return (words >> (16 * INDEX)).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)


@triton.jit
def packed(x0, x1, x2, x3, DTYPE: tl.constexpr):
    """Return words of four float32 numbers, rounded to 16 bits."""
    low = _bits(x0, DTYPE) | (_bits(x1, DTYPE) << 16)
    high = _bits(x2, DTYPE) | (_bits(x3, DTYPE) << 16)
    return low | (high << 32)


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """Round float32 numbers to 16 bits."""
    return x.to(DTYPE).to(tl.float32)


@triton.jit
def _bits(x, DTYPE: tl.constexpr):
    return x.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
