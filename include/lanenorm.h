/*
 * lanenorm: layer normalization and RMS normalization on CPUs, with the same bits on every instruction set.
 *
 * Rows. A row has `cols` elements that follow one another. Strides are counted in elements. f16 and bf16 are given
 * by their bits, as uint16_t.
 *
 * Functions. Each of layer_norm, rms_norm, add_layer_norm, add_rms_norm, layer_norm_backward and rms_norm_backward
 * exists for f32, f64, f16 and bf16: lanenorm_add_rms_norm_bf16, say. Their rows follow one another. For all else there
 * are plans: strides, mixed types, groups, a bias, ds, ranges of rows, a choice of stores or tiers.
 *
 * Errors. Every function checks all its arguments first: NULL, sizes, strides, alignment, overlaps. It returns
 * LANENORM_STATUS_OK (0), or it has written nothing (save after LANENORM_STATUS_INTERNAL, a bug of the library).
 * lanenorm_last_error_message tells more. If there are no rows or no columns, there is nothing to do, and pointers
 * may be NULL; dgamma and dbeta, where they are given, become zero, and scales those of zeros. Memory for outputs need
 * not be initialized.
 *
 * Outputs must not overlap other buffers, except as a function allows: y may be x itself, say.
 *
 * Threads. `threads` is 1 for the calling thread alone, 0 for as many threads as there are, as far as that pays, and n
 * for at most n threads. Beside the calling thread these are threads of the library. Large calls start them; they run
 * nothing else, sleep while there is nothing to do, and end after ten idle seconds. Before one sleeps, it keeps its
 * processor busy for 50 microseconds, looking for another call; so does a caller that waits for the last part of its
 * call. LANENORM_SPIN_MICROS, which is read once, sets another number, 10000 at most; with 0 nobody looks. With the
 * calling thread they are as many as the processors on which it may run, or as RAYON_NUM_THREADS says, which is read
 * once. They may run where the thread that starts them may run: if that is pinned, so are they, until they end. If none
 * can be started, the calling thread does all of it. After fork, a child process starts threads of its own. Engines
 * that have threads call lanenorm_plan_forward_rows and lanenorm_plan_backward_blocks on them. Results have the same
 * bits in all cases.
 *
 * Numbers. The eps of lanenorm_layer_norm_f32, and of all functions that have a float there, is widened to double:
 * 1e-5f is 9.9999997e-6. A plan gives the same bits with an eps of (double)1e-5f. With 1e-5 it gives the bits of a
 * framework that keeps eps in double. A bias is added to x + residual before the sum is rounded. In 16 bits this is one
 * rounding, where a framework that adds twice has two. (The field sums of a descriptor has other conventions: what
 * follows is for zero.) In f16 a sum beyond 65504 is infinite, and its row becomes NaN: keep a residual stream that may
 * grow so far in bf16 or float.
 *
 * Floating-point environment. Whatever the calling thread has set up (MXCSR on x86, FPCR on aarch64: flush to zero, a
 * rounding mode, exceptions that trap), results have the bits of the default environment, nothing traps, and the
 * environment and its flags are as they were when a call returns.
 *
 * Versions. Set struct_size to the sizeof of the header that the program is compiled with. A structure of an older
 * header may be smaller, by whole words: the fields beyond count as zero. It has to reach to the end of eps in a
 * descriptor, of y in a forward call, of dx in a backward call, of zero_point in quantized outputs, of z in a gate, of
 * dz in its gradients, of y in a second output, of y in a tensor of channels, of dy in its gradients, and to that of a
 * scheme. Fields are only ever added at the end. A structure that is larger than the library's is refused, even if it
 * ends in zeros (LANENORM_STATUS_SIZE), so that the library ignores nothing that a newer header asks for. A plan
 * belongs to the library that made it: for another version or build it is not initialized. All versions export the same
 * names. If two are in one process, load each with dlopen and RTLD_LOCAL, or link it into a shared library that hides
 * its symbols.
 *
 * The process. LANENORM_ISA is read by the first call, RAYON_NUM_THREADS and LANENORM_SPIN_MICROS by the first large
 * one. If another thread calls setenv meanwhile, that is a data race in most C libraries: where threads change the
 * environment, call lanenorm_isa_name and make one large call before they start. Calls need 32 KiB of stack at most in
 * release builds, and 64 KiB where they are quantized, have a gate, take tensors of channels, or normalize sums of 16
 * bits that are not rounded; in debug builds more than 256 KiB, for which 2 MiB are enough. dlclose is allowed when no
 * call is running; a library whose threads have helped a call stays in memory. A program that links two static
 * libraries in Rust can meet the symbols of Rust's runtime twice: use the shared library, or make one static library
 * of both.
 *
 * This file is generated: see tests/source/header.rs.
 */

#ifndef LANENORM_H
#define LANENORM_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header. lanenorm_version() tells the version of the library. */
#define LANENORM_VERSION "0.1.0"
#define LANENORM_VERSION_MAJOR 0
#define LANENORM_VERSION_MINOR 1
#define LANENORM_VERSION_PATCH 0

/** A warning where a status is not looked at. Define it as nothing to have none. */
#ifndef LANENORM_NODISCARD
#if (defined(__cplusplus) && __cplusplus >= 201703L) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L)
#define LANENORM_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define LANENORM_NODISCARD __attribute__((warn_unused_result))
#else
#define LANENORM_NODISCARD
#endif
#endif


/**
 * What a call returns. Unless it is `LANENORM_STATUS_OK`, nothing has been written.
 */
typedef enum lanenorm_status {
  /**
   * Done.
   */
  LANENORM_STATUS_OK = 0,
  /**
   * A pointer that must not be NULL is NULL.
   */
  LANENORM_STATUS_NULL_POINTER = 1,
  /**
   * A pointer is not aligned to the size of its elements.
   */
  LANENORM_STATUS_MISALIGNED = 2,
  /**
   * A size overflows `size_t`, or goes beyond the end of the address space.
   */
  LANENORM_STATUS_OVERFLOW = 3,
  /**
   * A size does not fit: a `struct_size`, a range of rows or blocks, `inner_rows`, groups that do not divide the
   * rows.
   */
  LANENORM_STATUS_SIZE = 4,
  /**
   * The rows of a buffer overlap one another.
   */
  LANENORM_STATUS_STRIDE = 5,
  /**
   * An output overlaps another buffer in a way that is not provided for.
   */
  LANENORM_STATUS_OVERLAP = 6,
  /**
   * eps is negative, infinite or NaN.
   */
  LANENORM_STATUS_EPS = 7,
  /**
   * A descriptor or `LANENORM_ISA` asks for an instruction set that is not available, or that is none.
   */
  LANENORM_STATUS_ISA = 8,
  /**
   * A combination that does not exist: of types, of buffers, of statistics, or an unknown number of an enumeration.
   */
  LANENORM_STATUS_UNSUPPORTED = 9,
  /**
   * A plan has not been initialized, or another version or build of the library has initialized it.
   */
  LANENORM_STATUS_UNINITIALIZED = 10,
  /**
   * There is no memory for the scratch space of a backward call.
   */
  LANENORM_STATUS_OUT_OF_MEMORY = 11,
  /**
   * A bug of the library. This is the only error after which outputs may have been written.
   */
  LANENORM_STATUS_INTERNAL = 12,
  /**
   * A part of a scheme of quantization is out of range, or parts of it do not go together.
   */
  LANENORM_STATUS_SCHEME = 13,
} lanenorm_status;

/**
 * The operations.
 */
typedef enum lanenorm_op {
  /**
   * y = (x - mean) / sqrt(var + eps) * (gamma + gamma_offset) + beta
   */
  LANENORM_OP_LAYER_NORM = 0,
  /**
   * y = x / sqrt(mean(x^2) + eps) * (gamma + gamma_offset)
   */
  LANENORM_OP_RMS_NORM = 1,
  /**
   * y = x / sqrt(sum(x^2) + eps) * (gamma + gamma_offset). This operation and the next are forms of RMS
   * normalization: all that is said of it holds for them. rstd is 1 / divisor.
   */
  LANENORM_OP_L2_NORM = 2,
  /**
   * y = x / max(sqrt(sum(x^2)), eps) * (gamma + gamma_offset), as `torch.nn.functional.normalize`. eps is 0, or lies
   * between 1e-150 and 1e150.
   */
  LANENORM_OP_L2_NORM_AT_LEAST = 3,
} lanenorm_op;

/**
 * The types of elements.
 */
typedef enum lanenorm_dtype {
  /**
   * The type of x; for x itself, f32.
   */
  LANENORM_DTYPE_DEFAULT = 0,
  /**
   * float
   */
  LANENORM_DTYPE_F32 = 1,
  /**
   * double
   */
  LANENORM_DTYPE_F64 = 2,
  /**
   * IEEE 754 binary16, as `uint16_t`
   */
  LANENORM_DTYPE_F16 = 3,
  /**
   * bfloat16, as `uint16_t`
   */
  LANENORM_DTYPE_BF16 = 4,
} lanenorm_dtype;

/**
 * How y (or dx) is stored. The choice changes no bits.
 */
typedef enum lanenorm_store {
  /**
   * Past the caches if the output is large and not in place, else ordinarily.
   */
  LANENORM_STORE_AUTO = 0,
  /**
   * Ordinarily.
   */
  LANENORM_STORE_ORDINARY = 1,
  /**
   * Past the caches, unless the output is in place.
   */
  LANENORM_STORE_STREAMING = 2,
} lanenorm_store;

/**
 * The instruction sets.
 */
typedef enum lanenorm_tier {
  /**
   * The set that `lanenorm_isa_name` names.
   */
  LANENORM_TIER_DEFAULT = 0,
  /**
   * Portable code.
   */
  LANENORM_TIER_SCALAR = 1,
  /**
   * aarch64
   */
  LANENORM_TIER_NEON = 2,
  /**
   * x86-64 with AVX2, FMA, BMI, F16C
   */
  LANENORM_TIER_AVX2 = 3,
  /**
   * x86-64 with AVX-512 F, BW, CD, DQ, VL
   */
  LANENORM_TIER_AVX512 = 4,
} lanenorm_tier;

/**
 * The types of quantized elements, of one byte each.
 */
typedef enum lanenorm_format {
  /**
   * int8_t
   */
  LANENORM_FORMAT_I8 = 0,
  /**
   * uint8_t, of which one value, the zero point, stands for 0
   */
  LANENORM_FORMAT_U8 = 1,
  /**
   * OCP FP8 E4M3 (`float8_e4m3fn`): up to 448, without infinities
   */
  LANENORM_FORMAT_E4M3 = 2,
  /**
   * OCP FP8 E5M2: up to 57344
   */
  LANENORM_FORMAT_E5M2 = 3,
} lanenorm_format;

/**
 * Which elements share a scale.
 */
typedef enum lanenorm_scope {
  /**
   * Those of a row ("per token").
   */
  LANENORM_SCOPE_ROW = 0,
  /**
   * `block` consecutive elements of a row.
   */
  LANENORM_SCOPE_BLOCK = 1,
  /**
   * All of a call ("per tensor"). x is read twice.
   */
  LANENORM_SCOPE_TENSOR = 2,
  /**
   * All, and `given_scale` is their ("static") scale.
   */
  LANENORM_SCOPE_GIVEN = 3,
} lanenorm_scope;

/**
 * Where quantized elements and their scales lie.
 */
typedef enum lanenorm_layout {
  /**
   * In arrays of their own.
   */
  LANENORM_LAYOUT_APART = 0,
  /**
   * GGUF Q8_0: blocks of 32 in 34 bytes, the scale in f16 and then the elements.
   */
  LANENORM_LAYOUT_Q8_0 = 1,
  /**
   * GGUF Q8_1: blocks of 32 in 36 bytes, the scale in f16, the sum of the elements times the scale in f16, and then
   * the elements.
   */
  LANENORM_LAYOUT_Q8_1 = 2,
  /**
   * GGUF Q8_K: blocks of 256 in 292 bytes, the scale in f32, the elements, and the sums of each 16 of them as
   * int16_t.
   */
  LANENORM_LAYOUT_Q8_K = 3,
} lanenorm_layout;

/**
 * How an element is divided by its scale.
 */
typedef enum lanenorm_quotient {
  /**
   * y / scale, rounded to float.
   */
  LANENORM_QUOTIENT_DIVIDE = 0,
  /**
   * y * (1 / scale), both rounded to float.
   */
  LANENORM_QUOTIENT_RECIPROCAL = 1,
  /**
   * y * (divisor / amax), both rounded to float.
   */
  LANENORM_QUOTIENT_RATIO = 2,
} lanenorm_quotient;

/**
 * Where an element goes that lies half-way between two integers.
 */
typedef enum lanenorm_ties {
  /**
   * To the even one.
   */
  LANENORM_TIES_EVEN = 0,
  /**
   * Away from zero.
   */
  LANENORM_TIES_AWAY = 1,
} lanenorm_ties;

/**
 * Schemes that have a name. Each gives the bits of what it is named after.
 */
typedef enum lanenorm_preset {
  /**
   * int8 by row: amax / 127, quotients correctly rounded, ties to even, -127 to 127.
   */
  LANENORM_PRESET_I8 = 0,
  /**
   * torch.ao: quantize_per_token of each row.
   */
  LANENORM_PRESET_TORCH_AO_I8 = 1,
  /**
   * torchao: Int8Tensor with PerRow.
   */
  LANENORM_PRESET_TORCHAO_I8 = 2,
  /**
   * vLLM on CPUs: dynamic_scaled_int8_quant.
   */
  LANENORM_PRESET_VLLM_I8 = 3,
  /**
   * uint8 with a zero point by row, by the formula of ONNX.
   */
  LANENORM_PRESET_U8 = 4,
  /**
   * ONNX DynamicQuantizeLinear: uint8 with a scale and a zero point for the tensor.
   */
  LANENORM_PRESET_ONNX_U8 = 5,
  /**
   * GGUF Q8_0, as the reference of ggml has it.
   */
  LANENORM_PRESET_Q8_0 = 6,
  /**
   * GGUF Q8_0, as the SIMD code of ggml on x86-64 has it.
   */
  LANENORM_PRESET_Q8_0_X86 = 7,
  /**
   * GGUF Q8_1, as the reference of ggml has it.
   */
  LANENORM_PRESET_Q8_1 = 8,
  /**
   * GGUF Q8_1, as the SIMD code of ggml on x86-64 has it.
   */
  LANENORM_PRESET_Q8_1_X86 = 9,
  /**
   * GGUF Q8_K, as ggml has it.
   */
  LANENORM_PRESET_Q8_K = 10,
  /**
   * FP8 E4M3 by row: amax / 448.
   */
  LANENORM_PRESET_E4M3 = 11,
  /**
   * FP8 E5M2 by row: amax / 57344.
   */
  LANENORM_PRESET_E5M2 = 12,
} lanenorm_preset;

/**
 * What is rounded to 16 bits before y is, where a model's code does so. Without any of these nothing is.
 */
typedef enum lanenorm_rounding {
  /**
   * Nothing (PyTorch's `layer_norm` and `rms_norm`).
   */
  LANENORM_ROUNDING_ONCE = 0,
  /**
   * xhat, before it is multiplied by gamma; and the product, before beta is added, unless gamma is f32 (ONNX's
   * operators, transformers' `LlamaRMSNorm`).
   */
  LANENORM_ROUNDING_STEPS = 1,
  /**
   * The sum of gamma and `gamma_offset` (transformers' `NemotronLayerNorm1P`).
   */
  LANENORM_ROUNDING_GAMMA = 2,
} lanenorm_rounding;

/**
 * Which sums of x and a residual of 16 bits are normalized. The sums that are written are always rounded.
 */
typedef enum lanenorm_sums {
  /**
   * The rounded sums.
   */
  LANENORM_SUMS_ROUNDED = 0,
  /**
   * The rounded sums, with the statistics of the sums in f32 (vLLM's `fused_add_rms_norm`).
   */
  LANENORM_SUMS_STATISTICS = 1,
  /**
   * The sums in f32 (ONNX Runtime's `SkipLayerNormalization`).
   */
  LANENORM_SUMS_UNROUNDED = 2,
} lanenorm_sums;

/**
 * The functions of gates, and what they are multiplied by. sigmoid(z) is 1 / (1 + exp(-z)), silu(z) is z * sigmoid(z),
 * and `gelu_tanh` is the form of GELU with tanh.
 */
typedef enum lanenorm_gate_kind {
  /**
   * norm(x) * silu(z): Qwen3NextRMSNormGated of transformers, with `LANENORM_ROUNDING_STEPS`
   */
  LANENORM_GATE_KIND_SILU = 0,
  /**
   * norm(x) * sigmoid(z): KimiLinearRMSNormGated
   */
  LANENORM_GATE_KIND_SIGMOID = 1,
  /**
   * norm(x) * gelu_tanh(z)
   */
  LANENORM_GATE_KIND_GELU_TANH = 2,
  /**
   * norm(x * silu(z)): MambaRMSNormGated and Zamba2RMSNormGated, with `LANENORM_ROUNDING_STEPS`
   */
  LANENORM_GATE_KIND_SILU_BEFORE = 3,
  /**
   * norm(x * sigmoid(z))
   */
  LANENORM_GATE_KIND_SIGMOID_BEFORE = 4,
  /**
   * norm(x * gelu_tanh(z))
   */
  LANENORM_GATE_KIND_GELU_TANH_BEFORE = 5,
} lanenorm_gate_kind;

/**
 * The order of the elements of a tensor in memory.
 */
typedef enum lanenorm_channel_order {
  /**
   * [samples, channels, pixels], also called NCHW.
   */
  LANENORM_CHANNEL_ORDER_FIRST = 0,
  /**
   * [samples, pixels, channels], also called NHWC.
   */
  LANENORM_CHANNEL_ORDER_LAST = 1,
} lanenorm_channel_order;

/**
 * What y goes through, before it is rounded to 16 bits.
 */
typedef enum lanenorm_activation {
  /**
   * Nothing.
   */
  LANENORM_ACTIVATION_NONE = 0,
  /**
   * y / (1 + exp(-y))
   */
  LANENORM_ACTIVATION_SILU = 1,
  /**
   * 1 / (1 + exp(-y))
   */
  LANENORM_ACTIVATION_SIGMOID = 2,
  /**
   * The form of GELU with tanh.
   */
  LANENORM_ACTIVATION_GELU_TANH = 3,
} lanenorm_activation;

/**
 * A plan: some numbers, which `lanenorm_plan_init` makes of a descriptor, and which are only read from then on, by any
 * number of threads. It can be copied within the process, and there is nothing to free. Only the library that made a
 * plan takes it.
 */
typedef struct lanenorm_plan {
  /**
   * Private.
   */
  uint64_t opaque[16];
} lanenorm_plan;

/**
 * A description of a normalization. Start from `LANENORM_DESC_INIT`, which sets `struct_size` and leaves all else
 * zero, and set op, dtype, cols, eps and whatever else differs from zero.
 */
typedef struct lanenorm_desc {
  /**
   * `sizeof(lanenorm_desc)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * A `lanenorm_op`.
   */
  int32_t op;
  /**
   * The `lanenorm_dtype` of x, and of dy, ds and dx. Zero counts as f32.
   */
  int32_t dtype;
  /**
   * The `lanenorm_dtype` of gamma and beta: the type of x, f32 beside 16 bits, or 16 bits beside f32.
   */
  int32_t gamma_dtype;
  /**
   * The `lanenorm_dtype` of y: the type of x, f32 beside 16 bits, or 16 bits beside f32. Backward calls do not look
   * at it: dy has the type of x.
   */
  int32_t y_dtype;
  /**
   * A `lanenorm_store`.
   */
  int32_t store;
  /**
   * A `lanenorm_tier`.
   */
  int32_t tier;
  /**
   * The elements of a row. With zero, calls succeed and do nothing, as they do without rows.
   */
  size_t cols;
  /**
   * Added to the variance (or the mean of squares) before the root is taken: finite, and zero or more.
   */
  double eps;
  /**
   * The number of groups of gamma and beta, which have `groups * cols` elements, group after group. Row r takes
   * group (r / group_repeat) % groups. The rows of a call must be a multiple of groups * group_repeat. Zero counts
   * as one. See `last_group_repeat`.
   */
  size_t groups;
  /**
   * The number of successive rows that take the same group. Zero counts as one. See `last_group_repeat`.
   */
  size_t group_repeat;
  /**
   * Added to gamma, if there is one: 1 where gamma - 1 is kept (Gemma).
   */
  float gamma_offset;
  /**
   * The `lanenorm_dtype` of residual, bias and sum: the type of x, or f32 beside 16 bits. It must be set where an x
   * of 16 bits is added to a residual stream of f32: zero takes the residual for 16 bits too. Backward calls refuse
   * a plan whose sums have another type than x: the gradients of such sums take a plan with their type as `dtype`.
   */
  int32_t sum_dtype;
  /**
   * Some `lanenorm_rounding`s, added up: what is rounded to 16 bits before the end.
   */
  int32_t rounding;
  /**
   * A `lanenorm_sums`: which sums of x and a residual of 16 bits are normalized.
   */
  int32_t sums;
  /**
   * The number of successive rows that take the last of several groups, if it differs from `group_repeat`: the heads
   * of Q and of K, say, are two groups. The rows of a call must be a multiple of the rows of all groups. Zero counts
   * as `group_repeat`; with one group it must be zero.
   */
  size_t last_group_repeat;
} lanenorm_desc;

/**
 * Rows to be read: row r starts at element (r / inner_rows) * outer_stride + (r % inner_rows) * row_stride of data.
 */
typedef struct lanenorm_rows {
  /**
   * The first element of the first row; NULL where the buffer is optional and absent.
   */
  const void *data;
  /**
   * The distance between the starts of two rows, in elements. 0 stands for cols: rows that follow one another.
   */
  size_t row_stride;
  /**
   * The distance between the starts of two runs of inner_rows rows, in elements. 0 stands for inner_rows *
   * row_stride.
   */
  size_t outer_stride;
} lanenorm_rows;

/**
 * Rows to be written. What lies between them is not touched.
 */
typedef struct lanenorm_rows_mut {
  /**
   * As in `lanenorm_rows`.
   */
  void *data;
  /**
   * As in `lanenorm_rows`.
   */
  size_t row_stride;
  /**
   * As in `lanenorm_rows`.
   */
  size_t outer_stride;
} lanenorm_rows_mut;

/**
 * The buffers of a forward call. Start from `LANENORM_FORWARD_INIT`, which sets `struct_size` and leaves all else zero
 * and absent.
 *
 * y may be x or residual itself, and sum may be residual or x: with the same pointer and strides, and elements of one
 * size. No other overlap with an output is allowed, but rows may lie between the rows of another buffer: columns of
 * the same rows, say.
 */
typedef struct lanenorm_forward_buffers {
  /**
   * `sizeof(lanenorm_forward_buffers)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The number of rows, in all.
   */
  size_t rows;
  /**
   * The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
   */
  size_t inner_rows;
  /**
   * What is normalized, or with a residual one of the addends.
   */
  struct lanenorm_rows x;
  /**
   * Optional: with a residual, x + residual (+ bias), rounded once to the type of the residual, is normalized.
   */
  struct lanenorm_rows residual;
  /**
   * Optional, with a residual: where the sum goes. (Without a sum, y must have its type.)
   */
  struct lanenorm_rows_mut sum;
  /**
   * The result.
   */
  struct lanenorm_rows_mut y;
  /**
   * Optional, with a residual: cols elements that are added to each x + residual before it is rounded.
   */
  const void *bias;
  /**
   * Optional: cols elements of each group.
   */
  const void *gamma;
  /**
   * Optional, not for RMS normalization: cols elements of each group.
   */
  const void *beta;
  /**
   * Optional, not for RMS normalization: an element for each row; double for rows of double, else float.
   */
  void *mean;
  /**
   * Optional, not for RMS normalization: what rounding took from the mean, of each row, in the type of mean.
   */
  void *mean_lo;
  /**
   * Optional: 1 / sqrt(var + eps), or 1 / sqrt(mean(x^2) + eps), of each row; double for rows of double, else float.
   */
  void *rstd;
} lanenorm_forward_buffers;

/**
 * The buffers of a backward call. Start from `LANENORM_BACKWARD_INIT`, which sets `struct_size` and leaves all else
 * zero and absent. At least one of dx, dgamma and dbeta must be wanted.
 *
 * dx may be dy itself, with the same strides. Otherwise outputs overlap nothing, as in forward calls.
 */
typedef struct lanenorm_backward_buffers {
  /**
   * `sizeof(lanenorm_backward_buffers)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The number of rows, in all.
   */
  size_t rows;
  /**
   * The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
   */
  size_t inner_rows;
  /**
   * The gradient of y. It has the type of x.
   */
  struct lanenorm_rows dy;
  /**
   * The rows that were normalized: x of the forward call, or its sum if there was a residual. Their type is the
   * `dtype` of the plan.
   */
  struct lanenorm_rows x;
  /**
   * Optional, with dx: a gradient that reaches x by another way (a residual connection), to be added to dx.
   */
  struct lanenorm_rows ds;
  /**
   * Optional: the gradient of x.
   */
  struct lanenorm_rows_mut dx;
  /**
   * Optional: the gamma of the forward call.
   */
  const void *gamma;
  /**
   * Optional, with rstd, not for RMS normalization: the mean of each row, as kept by the forward call. Without it
   * the mean is computed again.
   */
  const void *mean;
  /**
   * Optional, with mean: what rounding took from the mean, as kept by the forward call. Without it the mean counts
   * as exact, which costs digits where the mean is large beside the standard deviation.
   */
  const void *mean_lo;
  /**
   * Optional, with mean unless for RMS normalization: rstd of each row, as kept by the forward call. Without it rstd
   * is computed again.
   */
  const void *rstd;
  /**
   * Optional: the gradient of gamma, cols elements of each group; double for rows of double, else float.
   */
  void *dgamma;
  /**
   * Optional, not for RMS normalization: the gradient of beta, likewise.
   */
  void *dbeta;
} lanenorm_backward_buffers;

/**
 * How a backward call is cut into blocks of rows. Each block sums up gradients of gamma and beta of its own. The cut
 * depends on the number of rows alone, so that the bits do not depend on threads.
 */
typedef struct lanenorm_backward_sizes {
  /**
   * The number of blocks: 32 at most for each group.
   */
  size_t blocks;
  /**
   * The bytes of `partials`: the sums of all blocks.
   */
  size_t partials_bytes;
  /**
   * The bytes of `work`. Each thread needs its own.
   */
  size_t work_bytes;
} lanenorm_backward_sizes;

/**
 * How rows of y become elements of 8 bits and scales:
 *
 * scale = max(max(amax, least_amax) / divisor, least_scale), where amax is the greatest |y| that shares the scale, and
 * q = y / scale, rounded and saturated. `LANENORM_FORMAT_U8` has the range of all y and 0 in the place of amax, and a
 * zero point: round(-min(y, 0) / scale), which is added to q.
 *
 * Start from `LANENORM_SCHEME_INIT`, which is `LANENORM_PRESET_I8`, or from another preset by `lanenorm_scheme_init`;
 * and change fields for a scheme that has no name. For ONNX QuantizeLinear take `LANENORM_PRESET_I8` with a least of
 * -128, or `LANENORM_PRESET_U8`, and set scope to `LANENORM_SCOPE_GIVEN`, given_scale and given_zero_point.
 *
 * A scale that is 0 has elements of 0. If some y that shares a scale is NaN or infinite, the scale is NaN and the
 * elements are 0. Where the scale is given, NaN becomes the zero point (or the NaN of the format), and infinities
 * saturate.
 */
typedef struct lanenorm_scheme {
  /**
   * `sizeof(lanenorm_scheme)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * A `lanenorm_format`.
   */
  int32_t format;
  /**
   * A `lanenorm_scope`.
   */
  int32_t scope;
  /**
   * A `lanenorm_layout`.
   */
  int32_t layout;
  /**
   * A `lanenorm_quotient`.
   */
  int32_t quotient;
  /**
   * A `lanenorm_ties`. FP8 always goes to the even one.
   */
  int32_t ties;
  /**
   * The least integer: -127 or -128 for `LANENORM_FORMAT_I8`, else 0.
   */
  int32_t least;
  /**
   * For `LANENORM_SCOPE_BLOCK`: the elements of a block, a multiple of 32, at most 256, that divides cols. Else it
   * has no meaning.
   */
  size_t block;
  /**
   * What amax is divided by: finite and greater than 0.
   */
  float divisor;
  /**
   * The least amax: finite, and zero or more.
   */
  float least_amax;
  /**
   * The least scale: finite, and zero or more.
   */
  float least_scale;
  /**
   * The scale of elements that are all 0, if the least scale is 0: finite, and zero or more.
   */
  float zero_scale;
  /**
   * For `LANENORM_SCOPE_GIVEN`: the scale, finite and greater than 0. Else it has no meaning.
   */
  float given_scale;
  /**
   * For `LANENORM_SCOPE_GIVEN`: the integer that stands for 0. FP8 has 0. Else it has no meaning.
   */
  int32_t given_zero_point;
} lanenorm_scheme;

/**
 * How large the outputs of a quantized call are.
 */
typedef struct lanenorm_quantized_sizes {
  /**
   * The bytes of a row of q: cols, or the bytes of its blocks where these have scales beside their elements.
   */
  size_t row_bytes;
  /**
   * The elements of `scale`. With 0 there is no such array.
   */
  size_t scales;
  /**
   * The elements of `zero_point`. With 0 there is no such array.
   */
  size_t zero_points;
} lanenorm_quantized_sizes;

/**
 * Where quantized rows go. Start from `LANENORM_QUANTIZED_INIT`, which sets `struct_size` and leaves all else zero and
 * absent. `lanenorm_plan_quantized_sizes` tells how large everything is. No buffer may overlap another one of the
 * call.
 */
typedef struct lanenorm_quantized {
  /**
   * `sizeof(lanenorm_quantized)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The quantized rows. Strides are in bytes.
   */
  struct lanenorm_rows_mut q;
  /**
   * The scales, if the scheme has an array of them: one for each row, for each block of each row, or one for all.
   */
  float *scale;
  /**
   * The zero points, if the scheme has an array of them: one for each row, or one for all.
   */
  uint8_t *zero_point;
  /**
   * For `lanenorm_plan_quantize_rows` and `LANENORM_SCOPE_TENSOR` alone: the ranges that
   * `lanenorm_plan_range_rows` has written for some rows each, for all rows together. They are `2 * range_count`
   * floats.
   */
  const float *ranges;
  /**
   * The number of ranges.
   */
  size_t range_count;
} lanenorm_quantized;

/**
 * A gate: rows z, as many as x has, which y is apart from. Start from `LANENORM_GATE_INIT`, which sets `struct_size`
 * and leaves all else zero and absent.
 */
typedef struct lanenorm_gate {
  /**
   * `sizeof(lanenorm_gate)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The rows of the gate, in as many runs as those of the buffers.
   */
  struct lanenorm_rows z;
  /**
   * The `lanenorm_dtype` of z: the type of x, f32 beside 16 bits, or 16 bits beside f32.
   */
  int32_t z_dtype;
  /**
   * A `lanenorm_gate_kind`.
   */
  int32_t kind;
} lanenorm_gate;

/**
 * What a backward call of gated rows has beside its buffers and its gate. Start from `LANENORM_GATE_GRADIENTS_INIT`,
 * which sets `struct_size` and leaves all else zero and absent.
 */
typedef struct lanenorm_gate_gradients {
  /**
   * `sizeof(lanenorm_gate_gradients)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * Optional: the gradient of z, of the type of z. It overlaps nothing.
   */
  struct lanenorm_rows_mut dz;
  /**
   * Optional, not for RMS normalization: the beta of the forward call, of the type of gamma. dz depends on it where
   * the gate comes after the normalization.
   */
  const void *beta;
} lanenorm_gate_gradients;

/**
 * The second output of a call that normalizes each row twice. Start from `LANENORM_SECOND_INIT`, which sets
 * `struct_size` and leaves all else absent.
 */
typedef struct lanenorm_second {
  /**
   * `sizeof(lanenorm_second)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The second output, of the type of y, in as many runs as the buffers. It overlaps nothing, not even x.
   */
  struct lanenorm_rows_mut y;
  /**
   * Optional: the gamma of the second output, of the type and the length of the first one's.
   */
  const void *gamma;
  /**
   * Optional, not for RMS normalization: the beta of the second output, as gamma.
   */
  const void *beta;
} lanenorm_second;

/**
 * A tensor of channels, and what goes with it. Its channels are the `cols` of the plan, whose `groups` are one, and
 * whose types are those of x and gamma: y, dy and dx have the type of x. Start from `LANENORM_CHANNELS_INIT`, which
 * sets `struct_size` and leaves all else zero and absent.
 */
typedef struct lanenorm_channels {
  /**
   * `sizeof(lanenorm_channels)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The number of samples.
   */
  size_t samples;
  /**
   * The elements of a channel of a sample: height times width of an image.
   */
  size_t pixels;
  /**
   * With zero, the channels of each pixel are a row, and must come first (LayerNorm2d). Otherwise the channels of a
   * sample are cut into this many groups, which must divide them, and each group is a row (group normalization, for
   * layer normalization alone, without `gamma_offset` and `rounding`). With a group for each channel it is instance
   * normalization.
   */
  size_t groups;
  /**
   * A `lanenorm_channel_order`: of x, y, dy and dx.
   */
  int32_t order;
  /**
   * A `lanenorm_activation`, for groups.
   */
  int32_t activation;
  /**
   * The tensor.
   */
  const void *x;
  /**
   * Where the result goes, which may be x. Backward calls do not look at it.
   */
  void *y;
  /**
   * Optional: an element for each channel.
   */
  const void *gamma;
  /**
   * Optional, not for RMS normalization: an element for each channel. A backward call reads it where there is an
   * activation.
   */
  const void *beta;
  /**
   * Optional, not for RMS normalization: the mean of each row, [samples, pixels] or [samples, groups], of float, or
   * of double for double. A forward call writes it. A backward call reads it, with rstd.
   */
  void *mean;
  /**
   * Optional, not for RMS normalization: what rounding took from the mean.
   */
  void *mean_lo;
  /**
   * Optional: 1 / sqrt(var + eps) of each row. A backward call takes mean and rstd again where it is absent.
   */
  void *rstd;
} lanenorm_channels;

/**
 * The gradients of a tensor of channels. Start from `LANENORM_CHANNEL_GRADIENTS_INIT`, which sets `struct_size` and
 * leaves all else absent.
 */
typedef struct lanenorm_channel_gradients {
  /**
   * `sizeof(lanenorm_channel_gradients)`. See "Versions" at the top.
   */
  size_t struct_size;
  /**
   * The gradient of y, in the order of x.
   */
  const void *dy;
  /**
   * Optional: where the gradient of x goes, which may be dy.
   */
  void *dx;
  /**
   * Optional: where the gradient of gamma goes, an element for each channel, of float, or of double for double.
   */
  void *dgamma;
  /**
   * Optional, not for RMS normalization: the gradient of beta, likewise.
   */
  void *dbeta;
} lanenorm_channel_gradients;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a status means, in a few words: a constant string, also for numbers that are no status.
 */
const char *lanenorm_status_message(int32_t status);

/**
 * What was wrong with the last call of this thread that returned an error, with names and numbers. Empty if no call of
 * this thread has returned an error. The string is valid until the thread's next error, or its end.
 */
const char *lanenorm_last_error_message(void);

/**
 * The version of the library: "0.1.0", say.
 */
const char *lanenorm_version(void);

/**
 * The instruction set that calls use: "scalar", "neon", "avx2" or "avx512". It is the widest that the processor has,
 * or the one that the environment variable `LANENORM_ISA` names. The variable is read once per process. If it names a
 * set that is not available, this is "unavailable", and calls return `LANENORM_STATUS_ISA`.
 */
const char *lanenorm_isa_name(void);

/**
 * Layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta, for each of `rows` rows of `cols` elements.
 * gamma and beta have `cols` elements. mean and rstd (1 / sqrt(var + eps)) have one element for each row. gamma, beta,
 * mean and rstd may be NULL. y may be x.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_f32(const float *x,
                                             size_t rows,
                                             size_t cols,
                                             const float *gamma,
                                             const float *beta,
                                             float eps,
                                             float *y,
                                             float *mean,
                                             float *rstd,
                                             size_t threads);

/**
 * `lanenorm_layer_norm_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_f64(const double *x,
                                             size_t rows,
                                             size_t cols,
                                             const double *gamma,
                                             const double *beta,
                                             double eps,
                                             double *y,
                                             double *mean,
                                             double *rstd,
                                             size_t threads);

/**
 * `lanenorm_layer_norm_f32` for x, gamma, beta and y in f16 (IEEE 754 binary16), computed in float and rounded once.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_f16(const uint16_t *x,
                                             size_t rows,
                                             size_t cols,
                                             const uint16_t *gamma,
                                             const uint16_t *beta,
                                             float eps,
                                             uint16_t *y,
                                             float *mean,
                                             float *rstd,
                                             size_t threads);

/**
 * `lanenorm_layer_norm_f32` for x, gamma, beta and y in bf16, computed in float and rounded once.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_bf16(const uint16_t *x,
                                              size_t rows,
                                              size_t cols,
                                              const uint16_t *gamma,
                                              const uint16_t *beta,
                                              float eps,
                                              uint16_t *y,
                                              float *mean,
                                              float *rstd,
                                              size_t threads);

/**
 * RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + gamma_offset), for each of `rows` rows of `cols`
 * elements. gamma and rstd (1 / sqrt(mean(x^2) + eps), one for each row) may be NULL. Without gamma, gamma_offset has
 * no effect. y may be x.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_f32(const float *x,
                                           size_t rows,
                                           size_t cols,
                                           const float *gamma,
                                           float gamma_offset,
                                           float eps,
                                           float *y,
                                           float *rstd,
                                           size_t threads);

/**
 * `lanenorm_rms_norm_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_f64(const double *x,
                                           size_t rows,
                                           size_t cols,
                                           const double *gamma,
                                           float gamma_offset,
                                           double eps,
                                           double *y,
                                           double *rstd,
                                           size_t threads);

/**
 * `lanenorm_rms_norm_f32` for x, gamma and y in f16 (IEEE 754 binary16), computed in float and rounded once.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_f16(const uint16_t *x,
                                           size_t rows,
                                           size_t cols,
                                           const uint16_t *gamma,
                                           float gamma_offset,
                                           float eps,
                                           uint16_t *y,
                                           float *rstd,
                                           size_t threads);

/**
 * `lanenorm_rms_norm_f32` for x, gamma and y in bf16, computed in float and rounded once.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_bf16(const uint16_t *x,
                                            size_t rows,
                                            size_t cols,
                                            const uint16_t *gamma,
                                            float gamma_offset,
                                            float eps,
                                            uint16_t *y,
                                            float *rstd,
                                            size_t threads);

/**
 * Writes x + residual to sum, and the layer normalization of the sum to y, as a transformer does before each sublayer.
 * The bits are as from an addition followed by a layer normalization. gamma, beta and sum may be NULL. sum may be
 * residual or x, and y may be x or residual; but sum is not y.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_layer_norm_f32(const float *x,
                                                 const float *residual,
                                                 size_t rows,
                                                 size_t cols,
                                                 const float *gamma,
                                                 const float *beta,
                                                 float eps,
                                                 float *sum,
                                                 float *y,
                                                 size_t threads);

/**
 * `lanenorm_add_layer_norm_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_layer_norm_f64(const double *x,
                                                 const double *residual,
                                                 size_t rows,
                                                 size_t cols,
                                                 const double *gamma,
                                                 const double *beta,
                                                 double eps,
                                                 double *sum,
                                                 double *y,
                                                 size_t threads);

/**
 * `lanenorm_add_layer_norm_f32` in f16: the sum is rounded before it is normalized.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_layer_norm_f16(const uint16_t *x,
                                                 const uint16_t *residual,
                                                 size_t rows,
                                                 size_t cols,
                                                 const uint16_t *gamma,
                                                 const uint16_t *beta,
                                                 float eps,
                                                 uint16_t *sum,
                                                 uint16_t *y,
                                                 size_t threads);

/**
 * `lanenorm_add_layer_norm_f32` in bf16: the sum is rounded before it is normalized.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_layer_norm_bf16(const uint16_t *x,
                                                  const uint16_t *residual,
                                                  size_t rows,
                                                  size_t cols,
                                                  const uint16_t *gamma,
                                                  const uint16_t *beta,
                                                  float eps,
                                                  uint16_t *sum,
                                                  uint16_t *y,
                                                  size_t threads);

/**
 * Writes x + residual to sum, and the RMS normalization of the sum to y: see `lanenorm_add_layer_norm_f32`. gamma and
 * sum may be NULL.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_rms_norm_f32(const float *x,
                                               const float *residual,
                                               size_t rows,
                                               size_t cols,
                                               const float *gamma,
                                               float gamma_offset,
                                               float eps,
                                               float *sum,
                                               float *y,
                                               size_t threads);

/**
 * `lanenorm_add_rms_norm_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_rms_norm_f64(const double *x,
                                               const double *residual,
                                               size_t rows,
                                               size_t cols,
                                               const double *gamma,
                                               float gamma_offset,
                                               double eps,
                                               double *sum,
                                               double *y,
                                               size_t threads);

/**
 * `lanenorm_add_rms_norm_f32` in f16: the sum is rounded before it is normalized.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_rms_norm_f16(const uint16_t *x,
                                               const uint16_t *residual,
                                               size_t rows,
                                               size_t cols,
                                               const uint16_t *gamma,
                                               float gamma_offset,
                                               float eps,
                                               uint16_t *sum,
                                               uint16_t *y,
                                               size_t threads);

/**
 * `lanenorm_add_rms_norm_f32` in bf16: the sum is rounded before it is normalized.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_add_rms_norm_bf16(const uint16_t *x,
                                                const uint16_t *residual,
                                                size_t rows,
                                                size_t cols,
                                                const uint16_t *gamma,
                                                float gamma_offset,
                                                float eps,
                                                uint16_t *sum,
                                                uint16_t *y,
                                                size_t threads);

/**
 * Takes the gradients dx, dgamma and dbeta of layer normalization, each if it is not NULL, from the gradient dy of y.
 * gamma and eps must be the gamma and eps of the forward call. gamma may be NULL. mean and rstd may be NULL, both
 * together: they are computed again then. That gives the same bits for rows whose mean is small beside their standard
 * deviation, and more digits for other rows (a plan can be given mean_lo). dx may be dy.
 *
 * dgamma and dbeta are overwritten. They have the same bits for any number of threads. Memory is allocated for the
 * time of the call.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_backward_f32(const float *dy,
                                                      const float *x,
                                                      const float *mean,
                                                      const float *rstd,
                                                      size_t rows,
                                                      size_t cols,
                                                      const float *gamma,
                                                      float eps,
                                                      float *dx,
                                                      float *dgamma,
                                                      float *dbeta,
                                                      size_t threads);

/**
 * `lanenorm_layer_norm_backward_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_backward_f64(const double *dy,
                                                      const double *x,
                                                      const double *mean,
                                                      const double *rstd,
                                                      size_t rows,
                                                      size_t cols,
                                                      const double *gamma,
                                                      double eps,
                                                      double *dx,
                                                      double *dgamma,
                                                      double *dbeta,
                                                      size_t threads);

/**
 * `lanenorm_layer_norm_backward_f32` for dy, x, gamma and dx in f16; dgamma and dbeta are summed up, and written, in
 * float.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_backward_f16(const uint16_t *dy,
                                                      const uint16_t *x,
                                                      const float *mean,
                                                      const float *rstd,
                                                      size_t rows,
                                                      size_t cols,
                                                      const uint16_t *gamma,
                                                      float eps,
                                                      uint16_t *dx,
                                                      float *dgamma,
                                                      float *dbeta,
                                                      size_t threads);

/**
 * `lanenorm_layer_norm_backward_f32` for dy, x, gamma and dx in bf16; dgamma and dbeta are summed up, and written, in
 * float.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_layer_norm_backward_bf16(const uint16_t *dy,
                                                       const uint16_t *x,
                                                       const float *mean,
                                                       const float *rstd,
                                                       size_t rows,
                                                       size_t cols,
                                                       const uint16_t *gamma,
                                                       float eps,
                                                       uint16_t *dx,
                                                       float *dgamma,
                                                       float *dbeta,
                                                       size_t threads);

/**
 * Takes the gradients dx and dgamma of RMS normalization, each if it is not NULL: see
 * `lanenorm_layer_norm_backward_f32`. gamma and rstd may be NULL.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_backward_f32(const float *dy,
                                                    const float *x,
                                                    const float *rstd,
                                                    size_t rows,
                                                    size_t cols,
                                                    const float *gamma,
                                                    float gamma_offset,
                                                    float eps,
                                                    float *dx,
                                                    float *dgamma,
                                                    size_t threads);

/**
 * `lanenorm_rms_norm_backward_f32` in double.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_backward_f64(const double *dy,
                                                    const double *x,
                                                    const double *rstd,
                                                    size_t rows,
                                                    size_t cols,
                                                    const double *gamma,
                                                    float gamma_offset,
                                                    double eps,
                                                    double *dx,
                                                    double *dgamma,
                                                    size_t threads);

/**
 * `lanenorm_rms_norm_backward_f32` for dy, x, gamma and dx in f16; dgamma is summed up, and written, in float.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_backward_f16(const uint16_t *dy,
                                                    const uint16_t *x,
                                                    const float *rstd,
                                                    size_t rows,
                                                    size_t cols,
                                                    const uint16_t *gamma,
                                                    float gamma_offset,
                                                    float eps,
                                                    uint16_t *dx,
                                                    float *dgamma,
                                                    size_t threads);

/**
 * `lanenorm_rms_norm_backward_f32` for dy, x, gamma and dx in bf16; dgamma is summed up, and written, in float.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_rms_norm_backward_bf16(const uint16_t *dy,
                                                     const uint16_t *x,
                                                     const float *rstd,
                                                     size_t rows,
                                                     size_t cols,
                                                     const uint16_t *gamma,
                                                     float gamma_offset,
                                                     float eps,
                                                     uint16_t *dx,
                                                     float *dgamma,
                                                     size_t threads);

/**
 * Makes a plan of a descriptor. The descriptor is not needed afterwards. After an error the plan is as it was.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_init(struct lanenorm_plan *plan,
                                        const struct lanenorm_desc *desc);

/**
 * The instruction set of a plan, by the names of `lanenorm_isa_name`; "unavailable" if the plan is not initialized.
 */
const char *lanenorm_plan_isa_name(const struct lanenorm_plan *plan);

/**
 * Normalizes all rows, on as many threads as `threads` says.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_forward(const struct lanenorm_plan *plan,
                                           const struct lanenorm_forward_buffers *buffers,
                                           size_t threads);

/**
 * Normalizes `row_count` rows from `first_row` on, on the calling thread, without allocating. An engine's threads call
 * this at once, each for rows of its own, in any order. Each row gets the bits that one call for all rows gives it.
 * `buffers` is for all rows.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_forward_rows(const struct lanenorm_plan *plan,
                                                const struct lanenorm_forward_buffers *buffers,
                                                size_t first_row,
                                                size_t row_count);

/**
 * Takes the gradients of all rows, on as many threads as `threads` says. Memory is allocated for the time of the call.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_backward(const struct lanenorm_plan *plan,
                                            const struct lanenorm_backward_buffers *buffers,
                                            size_t threads);

/**
 * Writes to `sizes` how many blocks `rows` rows have, and how much memory they take.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_backward_sizes(const struct lanenorm_plan *plan,
                                                  size_t rows,
                                                  struct lanenorm_backward_sizes *sizes);

/**
 * Takes the gradients of `block_count` blocks from `first_block` on, on the calling thread, without allocating: writes
 * dx, and their part of partials. An engine's threads call this at once, each for blocks of its own, in any order.
 * `buffers` and `partials` are for all rows. dgamma and dbeta are not touched yet. `partials` may be NULL if neither
 * is wanted.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_backward_blocks(const struct lanenorm_plan *plan,
                                                   const struct lanenorm_backward_buffers *buffers,
                                                   void *partials,
                                                   void *work,
                                                   size_t first_block,
                                                   size_t block_count);

/**
 * Merges the partials of all blocks into dgamma and dbeta, either of which may be NULL, on the calling thread.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_backward_finish(const struct lanenorm_plan *plan,
                                                   const struct lanenorm_backward_buffers *buffers,
                                                   const void *partials);

/**
 * Sets all fields of a scheme but struct_size, which must be set before, to those of a `lanenorm_preset`.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_scheme_init(struct lanenorm_scheme *scheme,
                                          int32_t preset);

/**
 * Writes to `sizes` how large the outputs are for `rows` rows of the plan.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_quantized_sizes(const struct lanenorm_plan *plan,
                                                   const struct lanenorm_scheme *scheme,
                                                   size_t rows,
                                                   struct lanenorm_quantized_sizes *sizes);

/**
 * Normalizes and quantizes all rows, on as many threads as `threads` says. The bits are those of quantizing y in
 * float, before it would be rounded to another type. y may be NULL: then it is not written, and a residual needs a
 * sum. Rows of double are refused. Without rows or columns, scales and zero points, where they are given, become those
 * of zeros.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_quantize(const struct lanenorm_plan *plan,
                                            const struct lanenorm_forward_buffers *buffers,
                                            const struct lanenorm_scheme *scheme,
                                            const struct lanenorm_quantized *quantized,
                                            size_t threads);

/**
 * Normalizes and quantizes `row_count` rows from `first_row` on, on the calling thread, without allocating, as
 * `lanenorm_plan_forward_rows` does. `buffers` and `quantized` are for all rows.
 *
 * With `LANENORM_SCOPE_TENSOR` the ranges of all rows must be known: `lanenorm_plan_range_rows` takes them first. It
 * takes the sums too, where there is a residual, and these are taken from where they lie then. The call that has the
 * first row writes the scale and the zero point.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_quantize_rows(const struct lanenorm_plan *plan,
                                                 const struct lanenorm_forward_buffers *buffers,
                                                 const struct lanenorm_scheme *scheme,
                                                 const struct lanenorm_quantized *quantized,
                                                 size_t first_row,
                                                 size_t row_count);

/**
 * Writes to `range` the least and the greatest of 0 and the elements of y in `row_count` rows from `first_row` on; NaN
 * and NaN if an element is NaN or infinite. It is the first of the two calls that quantize these rows with
 * `LANENORM_SCOPE_TENSOR`: see `lanenorm_plan_quantize_rows`. `buffers` is for all rows. Sums and statistics are
 * written, and y is not, but for a residual without a sum: then y holds the sum meanwhile. Call it once for each row,
 * since a sum over x or residual would be taken twice.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_range_rows(const struct lanenorm_plan *plan,
                                              const struct lanenorm_forward_buffers *buffers,
                                              size_t first_row,
                                              size_t row_count,
                                              float *range);

/**
 * Normalizes all rows with a gate, on as many threads as `threads` says. The product is taken in float, and y is
 * rounded once. y may be x. Rows of double, and a residual, are refused.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_gate(const struct lanenorm_plan *plan,
                                        const struct lanenorm_forward_buffers *buffers,
                                        const struct lanenorm_gate *gate,
                                        size_t threads);

/**
 * Normalizes `row_count` rows from `first_row` on with a gate, on the calling thread, without allocating, as
 * `lanenorm_plan_forward_rows` does. `buffers` and `gate` are for all rows.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_gate_rows(const struct lanenorm_plan *plan,
                                             const struct lanenorm_forward_buffers *buffers,
                                             const struct lanenorm_gate *gate,
                                             size_t first_row,
                                             size_t row_count);

/**
 * Takes the gradients of all rows of a call with a gate, on as many threads as `threads` says. dy is the gradient of
 * that call's y, of the type of x. At least one of dx, dz, dgamma and dbeta must be wanted. Rows are normalized again:
 * the mean, mean_lo and rstd of `buffers` are not read. All between is float; dx and dz are rounded once. Memory is
 * allocated for the time of the call. A ds, and rows of double, are refused.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_gate_backward(const struct lanenorm_plan *plan,
                                                 const struct lanenorm_backward_buffers *buffers,
                                                 const struct lanenorm_gate *gate,
                                                 const struct lanenorm_gate_gradients *gradients,
                                                 size_t threads);

/**
 * Normalizes all rows into y, and with another gamma and beta into a second y, on as many threads as `threads` says: x
 * is read from memory once. Each output has the bits of a call of its own. y may be x. A residual is refused.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_second(const struct lanenorm_plan *plan,
                                          const struct lanenorm_forward_buffers *buffers,
                                          const struct lanenorm_second *second,
                                          size_t threads);

/**
 * Normalizes `row_count` rows from `first_row` on into both outputs, on the calling thread, without allocating, as
 * `lanenorm_plan_forward_rows` does. `buffers` and `second` are for all rows.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_second_rows(const struct lanenorm_plan *plan,
                                               const struct lanenorm_forward_buffers *buffers,
                                               const struct lanenorm_second *second,
                                               size_t first_row,
                                               size_t row_count);

/**
 * Normalizes a tensor of channels, on as many threads as `threads` says. Memory is allocated for the time of the call
 * where elements of a row are not next to one another.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_channels(const struct lanenorm_plan *plan,
                                            const struct lanenorm_channels *channels,
                                            size_t threads);

/**
 * Takes the gradients of a tensor of channels, on as many threads as `threads` says. At least one of dx, dgamma and
 * dbeta must be wanted. Memory is allocated for the time of the call.
 */
LANENORM_NODISCARD
enum lanenorm_status lanenorm_plan_channels_backward(const struct lanenorm_plan *plan,
                                                     const struct lanenorm_channels *channels,
                                                     const struct lanenorm_channel_gradients *gradients,
                                                     size_t threads);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/** A descriptor to start from: layer normalization in f32, with all options at their defaults. */
#define LANENORM_DESC_INIT {sizeof(lanenorm_desc), 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0.0f, 0, 0, 0, 0}

/** Buffers to start from, all of them absent. */
#define LANENORM_FORWARD_INIT \
  {sizeof(lanenorm_forward_buffers), 0, 0, {NULL, 0, 0}, {NULL, 0, 0}, {NULL, 0, 0}, {NULL, 0, 0}, \
   NULL, NULL, NULL, NULL, NULL, NULL}

/** Buffers to start from, all of them absent. */
#define LANENORM_BACKWARD_INIT \
  {sizeof(lanenorm_backward_buffers), 0, 0, {NULL, 0, 0}, {NULL, 0, 0}, {NULL, 0, 0}, {NULL, 0, 0}, \
   NULL, NULL, NULL, NULL, NULL, NULL}

/** A scheme to start from: LANENORM_PRESET_I8. */
#define LANENORM_SCHEME_INIT \
  {sizeof(lanenorm_scheme), 0, 0, 0, 0, 0, -127, 0, 127.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0}

/** Outputs to start from, all of them absent. */
#define LANENORM_QUANTIZED_INIT {sizeof(lanenorm_quantized), {NULL, 0, 0}, NULL, NULL, NULL, 0}

/** A gate to start from: silu, behind the normalization, of a z that is absent. */
#define LANENORM_GATE_INIT {sizeof(lanenorm_gate), {NULL, 0, 0}, 0, 0}

/** Nothing beside the buffers of a backward call of gated rows: neither dz nor beta. */
#define LANENORM_GATE_GRADIENTS_INIT {sizeof(lanenorm_gate_gradients), {NULL, 0, 0}, NULL}

/** A second output to start from, which is absent, as are its gamma and beta. */
#define LANENORM_SECOND_INIT {sizeof(lanenorm_second), {NULL, 0, 0}, NULL, NULL}

/** A tensor of channels to start from: of nothing, whose channels come first. */
#define LANENORM_CHANNELS_INIT \
  {sizeof(lanenorm_channels), 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/** Gradients of a tensor of channels to start from, all of them absent. */
#define LANENORM_CHANNEL_GRADIENTS_INIT {sizeof(lanenorm_channel_gradients), NULL, NULL, NULL, NULL}

#endif /* LANENORM_H */
