/* kernels/cpu/vec_impl.h - the f32 operations, compiled once per instruction set. The includer defines MW_VEC_OPS. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#include "kernels/cpu/vec_rows_impl.h"

#include "kernels/cpu/vec_dense_impl.h"

#include "kernels/cpu/vec_attn_impl.h"

const mw_vec_ops MW_VEC_OPS = {
    .dense = dense,
    .convert = convert,
    .add_norm = add_norm,
    .silu_mul = silu_mul,
    .rope_kv = rope_kv,
    .count_nonfinite = count_nonfinite,
    .attn_decode = attn_decode,
    .attn_prefill = attn_prefill,
    .attn_merge = attn_merge,
};
