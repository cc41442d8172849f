/*
 * Every function of lanenorm.h, checked against plain loops in double, and for the same bits from any number of threads.
 * This is C99, and C++ too. run.sh builds and runs it in all ways.
 */
#define _POSIX_C_SOURCE 200809L
#include <lanenorm.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) check((condition) ? 1 : 0, #condition, __LINE__)
#define OK(call) ok((call), __LINE__)
#define REFUSED(status, call) refused((status), (call), __LINE__)

static void check(int holds, const char *what, int line) {
  if (!holds) {
    fprintf(stderr, "check.c:%d: %s (last error: %s)\n", line, what, lanenorm_last_error_message());
    exit(1);
  }
}

static void ok(lanenorm_status status, int line) {
  check(status == LANENORM_STATUS_OK, lanenorm_status_message(status), line);
}

static void refused(lanenorm_status expected, lanenorm_status status, int line) {
  check(status == expected, lanenorm_status_message(status), line);
  check(lanenorm_last_error_message()[0] != '\0', "there is a message", line);
}

static void *allocate(size_t bytes) {
  void *p = malloc(bytes > 0 ? bytes : 1);
  CHECK(p != NULL);
  return p;
}

/* Uniform on [-1, 1). */
static double noise(void) {
  static uint64_t state = 1;
  state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (double)(state >> 11) / 4503599627370496.0 - 1.0;
}

/* ---- Elements of every type ---- */

typedef enum { F32, F64, F16, BF16 } type;

static size_t size_of(type t) { return t == F64 ? sizeof(double) : t == F32 ? sizeof(float) : sizeof(uint16_t); }

/* The type of statistics, and of the gradients of gamma and beta. */
static type float_of(type t) { return t == F64 ? F64 : F32; }

static double from_f16(uint16_t bits) {
  int exponent = (bits >> 10) & 31;
  double m = (double)(bits & 1023);
  double v = exponent == 0 ? ldexp(m, -24) : ldexp(m + 1024.0, exponent - 25);
  return bits >> 15 ? -v : v;
}

/* A number in the range of f16, rounded towards zero: any rounding is good enough for inputs. */
static uint16_t to_f16(double v) {
  int exponent;
  uint16_t sign = v < 0.0 ? 0x8000 : 0;
  double m = frexp(fabs(v), &exponent);
  if (m == 0.0 || exponent < -13) return sign;
  return (uint16_t)(sign | (unsigned)(exponent + 14) << 10 | ((unsigned)(m * 2048.0) & 1023u));
}

static double get(type t, const void *p, size_t i) {
  uint16_t half;
  uint32_t bits;
  float f;
  switch (t) {
    case F32: return (double)((const float *)p)[i];
    case F64: return ((const double *)p)[i];
    case F16: return from_f16(((const uint16_t *)p)[i]);
    default:
      half = ((const uint16_t *)p)[i];
      bits = (uint32_t)half << 16;
      memcpy(&f, &bits, sizeof f);
      return (double)f;
  }
}

static void set(type t, void *p, size_t i, double v) {
  float f = (float)v;
  uint32_t bits;
  switch (t) {
    case F32: ((float *)p)[i] = f; break;
    case F64: ((double *)p)[i] = v; break;
    case F16: ((uint16_t *)p)[i] = to_f16(v); break;
    default:
      memcpy(&bits, &f, sizeof bits);
      ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
  }
}

/* n elements around an offset. */
static void *filled(type t, size_t n, double offset) {
  size_t i;
  void *p = allocate(n * size_of(t));
  for (i = 0; i < n; i++) set(t, p, i, offset + noise());
  return p;
}

static void *copy(type t, const void *of, size_t n) {
  void *p = allocate(n * size_of(t));
  return memcpy(p, of, n * size_of(t));
}

static int same(type t, const void *a, const void *b, size_t n) { return memcmp(a, b, n * size_of(t)) == 0; }

/* Whether v is as near to the exact number as the contract says: to 4 units of 2^-24 (of 2^-53) of the size, and to half a unit in
   the last place of 16 bits. */
static int near(type t, double v, double exact, double size) {
  double unit = t == F64 ? ldexp(1.0, -53) : ldexp(1.0, -24);
  double half_ulp = t == F16 ? ldexp(1.0, -11) : t == BF16 ? ldexp(1.0, -8) : 0.0;
  /* The loops here are in double themselves. */
  double factor = t == F64 ? 64.0 : 4.0;
  return fabs(v - exact) <= factor * unit * size + half_ulp * fabs(exact) + (t == F16 ? ldexp(1.0, -25) : 0.0);
}

/* ---- The answers, in plain loops ---- */

typedef struct {
  int centered;
  size_t rows, cols;
  double eps, gamma_offset;
} problem;

static double gamma_at(const problem *p, type t, const void *gamma, size_t i) {
  return gamma == NULL ? 1.0 : get(t, gamma, i) + p->gamma_offset;
}

static void statistics(const problem *p, type t, const void *x, size_t row, double *mean, double *rstd) {
  size_t i;
  double sum = 0.0, squares = 0.0, d;
  for (i = 0; i < p->cols; i++) sum += get(t, x, row * p->cols + i);
  *mean = p->centered ? sum / (double)p->cols : 0.0;
  for (i = 0; i < p->cols; i++) {
    d = get(t, x, row * p->cols + i) - *mean;
    squares += d * d;
  }
  *rstd = 1.0 / sqrt(squares / (double)p->cols + p->eps);
}

static void check_forward(const problem *p, type t, const void *x, const void *gamma, const void *beta, const void *y,
                          const void *mean, const void *rstd) {
  size_t r, i;
  for (r = 0; r < p->rows; r++) {
    double m, s;
    statistics(p, t, x, r, &m, &s);
    CHECK(mean == NULL || near(float_of(t), get(float_of(t), mean, r), m, fabs(m) + 1.0));
    CHECK(rstd == NULL || near(float_of(t), get(float_of(t), rstd, r), s, s));
    for (i = 0; i < p->cols; i++) {
      double xhat = (get(t, x, r * p->cols + i) - m) * s;
      double g = gamma_at(p, t, gamma, i), b = beta == NULL ? 0.0 : get(t, beta, i);
      CHECK(near(t, get(t, y, r * p->cols + i), xhat * g + b, fabs(g) * (1.0 + fabs(xhat)) + fabs(b)));
    }
  }
}

static void check_backward(const problem *p, type t, const void *dy, const void *x, const void *gamma, const void *dx,
                           const void *dgamma, const void *dbeta) {
  size_t r, i, n = p->cols;
  type f = float_of(t);
  double *sums = (double *)allocate(4 * n * sizeof(double));
  for (i = 0; i < 4 * n; i++) sums[i] = 0.0;
  for (r = 0; r < p->rows; r++) {
    double m, s, c1 = 0.0, c2 = 0.0, size = 0.0, gx_size = 0.0;
    statistics(p, t, x, r, &m, &s);
    for (i = 0; i < n; i++) {
      double xhat = (get(t, x, r * n + i) - m) * s, d = get(t, dy, r * n + i), g = d * gamma_at(p, t, gamma, i);
      c1 += p->centered ? g / (double)n : 0.0;
      c2 += g * xhat / (double)n;
      size += fabs(g) / (double)n;
      gx_size += fabs(g * xhat) / (double)n;
      sums[i] += d * xhat;
      sums[n + i] += d;
      sums[2 * n + i] = fmax(sums[2 * n + i], fabs(d) * (1.0 + fabs(xhat)));
      sums[3 * n + i] = fmax(sums[3 * n + i], fabs(d));
    }
    for (i = 0; i < n; i++) {
      double xhat = (get(t, x, r * n + i) - m) * s, g = get(t, dy, r * n + i) * gamma_at(p, t, gamma, i);
      double exact = s * (g - c1 - xhat * c2);
      CHECK(near(t, get(t, dx, r * n + i), exact, 2.0 * s * (fabs(g) + size + fabs(xhat) * gx_size)));
    }
  }
  for (i = 0; i < n; i++) {
    double root = sqrt((double)p->rows);
    CHECK(near(f, get(f, dgamma, i), sums[i], root * sums[2 * n + i]));
    CHECK(dbeta == NULL || near(f, get(f, dbeta, i), sums[n + i], root * sums[3 * n + i]));
  }
  free(sums);
}

/* ---- The functions of the common cases ---- */

static lanenorm_status layer_norm(type t, const problem *p, const void *x, const void *gamma, const void *beta, void *y,
                                  void *mean, void *rstd, size_t threads) {
  size_t rows = p->rows, cols = p->cols;
  float eps = (float)p->eps;
  switch (t) {
    case F32:
      return lanenorm_layer_norm_f32((const float *)x, rows, cols, (const float *)gamma, (const float *)beta, eps,
                                     (float *)y, (float *)mean, (float *)rstd, threads);
    case F64:
      return lanenorm_layer_norm_f64((const double *)x, rows, cols, (const double *)gamma, (const double *)beta, p->eps,
                                     (double *)y, (double *)mean, (double *)rstd, threads);
    case F16:
      return lanenorm_layer_norm_f16((const uint16_t *)x, rows, cols, (const uint16_t *)gamma, (const uint16_t *)beta, eps,
                                     (uint16_t *)y, (float *)mean, (float *)rstd, threads);
    default:
      return lanenorm_layer_norm_bf16((const uint16_t *)x, rows, cols, (const uint16_t *)gamma, (const uint16_t *)beta, eps,
                                      (uint16_t *)y, (float *)mean, (float *)rstd, threads);
  }
}

static lanenorm_status rms_norm(type t, const problem *p, const void *x, const void *gamma, void *y, void *rstd,
                                size_t threads) {
  float offset = (float)p->gamma_offset, eps = (float)p->eps;
  switch (t) {
    case F32:
      return lanenorm_rms_norm_f32((const float *)x, p->rows, p->cols, (const float *)gamma, offset, eps, (float *)y,
                                   (float *)rstd, threads);
    case F64:
      return lanenorm_rms_norm_f64((const double *)x, p->rows, p->cols, (const double *)gamma, offset, p->eps,
                                   (double *)y, (double *)rstd, threads);
    case F16:
      return lanenorm_rms_norm_f16((const uint16_t *)x, p->rows, p->cols, (const uint16_t *)gamma, offset, eps,
                                   (uint16_t *)y, (float *)rstd, threads);
    default:
      return lanenorm_rms_norm_bf16((const uint16_t *)x, p->rows, p->cols, (const uint16_t *)gamma, offset, eps,
                                    (uint16_t *)y, (float *)rstd, threads);
  }
}

static lanenorm_status add_norm(type t, const problem *p, const void *x, const void *residual, const void *gamma,
                                const void *beta, void *sum, void *y, size_t threads) {
  size_t rows = p->rows, cols = p->cols;
  float offset = (float)p->gamma_offset, eps = (float)p->eps;
  const float *xf = (const float *)x, *rf = (const float *)residual, *gf = (const float *)gamma, *bf = (const float *)beta;
  const double *xd = (const double *)x, *rd = (const double *)residual, *gd = (const double *)gamma;
  const double *bd = (const double *)beta;
  const uint16_t *xh = (const uint16_t *)x, *rh = (const uint16_t *)residual, *gh = (const uint16_t *)gamma;
  const uint16_t *bh = (const uint16_t *)beta;
  float *sf = (float *)sum, *yf = (float *)y;
  double *sd = (double *)sum, *yd = (double *)y;
  uint16_t *sh = (uint16_t *)sum, *yh = (uint16_t *)y;
  if (p->centered) {
    switch (t) {
      case F32: return lanenorm_add_layer_norm_f32(xf, rf, rows, cols, gf, bf, eps, sf, yf, threads);
      case F64: return lanenorm_add_layer_norm_f64(xd, rd, rows, cols, gd, bd, p->eps, sd, yd, threads);
      case F16: return lanenorm_add_layer_norm_f16(xh, rh, rows, cols, gh, bh, eps, sh, yh, threads);
      default: return lanenorm_add_layer_norm_bf16(xh, rh, rows, cols, gh, bh, eps, sh, yh, threads);
    }
  }
  switch (t) {
    case F32: return lanenorm_add_rms_norm_f32(xf, rf, rows, cols, gf, offset, eps, sf, yf, threads);
    case F64: return lanenorm_add_rms_norm_f64(xd, rd, rows, cols, gd, offset, p->eps, sd, yd, threads);
    case F16: return lanenorm_add_rms_norm_f16(xh, rh, rows, cols, gh, offset, eps, sh, yh, threads);
    default: return lanenorm_add_rms_norm_bf16(xh, rh, rows, cols, gh, offset, eps, sh, yh, threads);
  }
}

static lanenorm_status any_norm(type t, const problem *p, const void *x, const void *gamma, const void *beta, void *y,
                                void *mean, void *rstd, size_t threads) {
  return p->centered ? layer_norm(t, p, x, gamma, beta, y, mean, rstd, threads)
                     : rms_norm(t, p, x, gamma, y, rstd, threads);
}

static void functions(type t, const problem *p, double offset) {
  size_t n = p->rows * p->cols, threads;
  type f = float_of(t);
  void *x = filled(t, n, offset), *gamma = filled(t, p->cols, 1.0), *beta = p->centered ? filled(t, p->cols, 0.0) : NULL;
  void *y = allocate(n * size_of(t)), *again = allocate(n * size_of(t));
  void *mean = p->centered ? allocate(p->rows * size_of(f)) : NULL, *rstd = allocate(p->rows * size_of(f));
  OK(any_norm(t, p, x, gamma, beta, y, mean, rstd, 1));
  check_forward(p, t, x, gamma, beta, y, mean, rstd);
  for (threads = 0; threads < 5; threads++) {
    OK(any_norm(t, p, x, gamma, beta, again, NULL, NULL, threads));
    CHECK(same(t, y, again, n));
  }
  memcpy(again, x, n * size_of(t));
  OK(any_norm(t, p, again, gamma, beta, again, NULL, NULL, 0));
  CHECK(same(t, y, again, n));
  OK(any_norm(t, p, x, NULL, NULL, y, NULL, NULL, 0));
  check_forward(p, t, x, NULL, NULL, y, NULL, NULL);

  /* The sum is checked by normalizing it alone. */
  void *residual = filled(t, n, 0.0), *sum = allocate(n * size_of(t)), *in_place = copy(t, residual, n);
  OK(add_norm(t, p, x, residual, gamma, beta, sum, y, 0));
  OK(any_norm(t, p, sum, gamma, beta, again, NULL, NULL, 1));
  CHECK(same(t, y, again, n));
  CHECK(near(t, get(t, sum, n - 1), get(t, x, n - 1) + get(t, residual, n - 1), 3.0 + fabs(offset)));
  for (threads = 0; threads < 4; threads++) {
    memcpy(in_place, residual, n * size_of(t));
    OK(add_norm(t, p, x, in_place, gamma, beta, in_place, again, threads));
    CHECK(same(t, sum, in_place, n) && same(t, y, again, n));
    OK(add_norm(t, p, x, residual, gamma, beta, NULL, again, threads));
    CHECK(same(t, y, again, n));
  }
  memcpy(in_place, x, n * size_of(t));
  OK(add_norm(t, p, in_place, residual, gamma, beta, in_place, residual, 2));
  CHECK(same(t, sum, in_place, n) && same(t, y, residual, n));
  free(residual);
  free(sum);
  free(in_place);
  free(x);
  free(gamma);
  free(beta);
  free(y);
  free(again);
  free(mean);
  free(rstd);
}

static lanenorm_status any_backward(type t, const problem *p, const void *dy, const void *x, const void *mean,
                                    const void *rstd, const void *gamma, void *dx, void *dgamma, void *dbeta,
                                    size_t threads) {
  size_t rows = p->rows, cols = p->cols;
  float offset = (float)p->gamma_offset, eps = (float)p->eps;
  double epsd = p->eps;
  const float *dyf = (const float *)dy, *xf = (const float *)x, *gf = (const float *)gamma;
  const double *dyd = (const double *)dy, *xd = (const double *)x, *gd = (const double *)gamma;
  const uint16_t *dyh = (const uint16_t *)dy, *xh = (const uint16_t *)x, *gh = (const uint16_t *)gamma;
  const float *mf = (const float *)mean, *rf = (const float *)rstd;
  const double *md = (const double *)mean, *rd = (const double *)rstd;
  float *dxf = (float *)dx, *dgf = (float *)dgamma, *dbf = (float *)dbeta;
  double *dxd = (double *)dx, *dgd = (double *)dgamma, *dbd = (double *)dbeta;
  uint16_t *dxh = (uint16_t *)dx;
  if (p->centered) {
    switch (t) {
      case F32: return lanenorm_layer_norm_backward_f32(dyf, xf, mf, rf, rows, cols, gf, eps, dxf, dgf, dbf, threads);
      case F64: return lanenorm_layer_norm_backward_f64(dyd, xd, md, rd, rows, cols, gd, epsd, dxd, dgd, dbd, threads);
      case F16: return lanenorm_layer_norm_backward_f16(dyh, xh, mf, rf, rows, cols, gh, eps, dxh, dgf, dbf, threads);
      default: return lanenorm_layer_norm_backward_bf16(dyh, xh, mf, rf, rows, cols, gh, eps, dxh, dgf, dbf, threads);
    }
  }
  switch (t) {
    case F32: return lanenorm_rms_norm_backward_f32(dyf, xf, rf, rows, cols, gf, offset, eps, dxf, dgf, threads);
    case F64: return lanenorm_rms_norm_backward_f64(dyd, xd, rd, rows, cols, gd, offset, epsd, dxd, dgd, threads);
    case F16: return lanenorm_rms_norm_backward_f16(dyh, xh, rf, rows, cols, gh, offset, eps, dxh, dgf, threads);
    default: return lanenorm_rms_norm_backward_bf16(dyh, xh, rf, rows, cols, gh, offset, eps, dxh, dgf, threads);
  }
}

static void gradients(type t, const problem *p) {
  type f = float_of(t);
  size_t n = p->rows * p->cols, params = p->cols * size_of(f), stats = p->rows * size_of(f), threads;
  void *dy = filled(t, n, 0.0), *x = filled(t, n, 0.0), *gamma = filled(t, p->cols, 1.0);
  void *dx = allocate(n * size_of(t)), *dx_again = allocate(n * size_of(t));
  void *dgamma = allocate(params), *dgamma_again = allocate(params);
  void *dbeta = p->centered ? allocate(params) : NULL, *dbeta_again = p->centered ? allocate(params) : NULL;
  void *mean = p->centered ? allocate(stats) : NULL, *rstd = allocate(stats);
  OK(any_norm(t, p, x, gamma, NULL, dx, mean, rstd, 1));
  OK(any_backward(t, p, dy, x, mean, rstd, gamma, dx, dgamma, dbeta, 1));
  check_backward(p, t, dy, x, gamma, dx, dgamma, dbeta);
  for (threads = 0; threads < 4; threads++) {
    OK(any_backward(t, p, dy, x, mean, rstd, gamma, dx_again, dgamma_again, dbeta_again, threads));
    CHECK(same(t, dx, dx_again, n) && same(f, dgamma, dgamma_again, p->cols));
    CHECK(dbeta == NULL || same(f, dbeta, dbeta_again, p->cols));
  }
  OK(any_backward(t, p, dy, x, NULL, NULL, gamma, dx, dgamma, dbeta, 0));
  check_backward(p, t, dy, x, gamma, dx, dgamma, dbeta);
  memcpy(dx_again, dy, n * size_of(t));
  OK(any_backward(t, p, dx_again, x, NULL, NULL, gamma, dx_again, NULL, NULL, 2));
  CHECK(same(t, dx, dx_again, n));
  free(dy);
  free(x);
  free(gamma);
  free(dx);
  free(dx_again);
  free(dgamma);
  free(dgamma_again);
  free(dbeta);
  free(dbeta_again);
  free(mean);
  free(rstd);
}

/* ---- Descriptors, and calls driven by threads of our own ---- */

#define THREADS 3

typedef struct {
  const lanenorm_plan *plan;
  const lanenorm_forward_buffers *forward;
  const lanenorm_backward_buffers *backward;
  lanenorm_backward_sizes sizes;
  void *partials;
  size_t index, threads;
} task;

/* Every threads-th row, or block, one by one, as a work queue would hand them out. */
static void *run_task(void *argument) {
  task *t = (task *)argument;
  size_t i;
  if (t->forward != NULL) {
    for (i = t->index; i < t->forward->rows; i += t->threads) OK(lanenorm_plan_forward_rows(t->plan, t->forward, i, 1));
  } else {
    void *work = allocate(t->sizes.work_bytes);
    for (i = t->index; i < t->sizes.blocks; i += t->threads) {
      OK(lanenorm_plan_backward_blocks(t->plan, t->backward, t->partials, work, i, 1));
    }
    free(work);
  }
  return NULL;
}

static void run_tasks(task of_all, size_t threads) {
  pthread_t handles[THREADS];
  task tasks[THREADS];
  size_t i;
  for (i = 0; i < threads; i++) {
    tasks[i] = of_all;
    tasks[i].index = i;
    tasks[i].threads = threads;
    CHECK(pthread_create(&handles[i], NULL, run_task, &tasks[i]) == 0);
  }
  for (i = 0; i < threads; i++) CHECK(pthread_join(handles[i], NULL) == 0);
}

/* QK-norm: the heads of q, in place in a packed buffer of q, k and v, each with a gamma of its own. */
static void packed_heads(void) {
  enum { TOKENS = 7, HEADS = 4, COLS = 32, TOKEN = 3 * HEADS * COLS };
  problem p = {0, 1, COLS, 1e-6, 1.0};
  size_t token, head, i, threads;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  task of_all;
  float *before = (float *)filled(F32, TOKENS * TOKEN, 0.0), *gamma = (float *)filled(F32, HEADS * COLS, 0.0);
  float *packed = (float *)copy(F32, before, TOKENS * TOKEN), *again = (float *)copy(F32, before, TOKENS * TOKEN);
  desc.op = LANENORM_OP_RMS_NORM;
  desc.cols = COLS;
  desc.eps = p.eps;
  desc.gamma_offset = 1.0f;
  desc.groups = HEADS;
  OK(lanenorm_plan_init(&plan, &desc));
  CHECK(strcmp(lanenorm_plan_isa_name(&plan), lanenorm_isa_name()) == 0);
  buffers.rows = TOKENS * HEADS;
  buffers.inner_rows = HEADS;
  buffers.x.data = packed;
  buffers.x.outer_stride = TOKEN;
  buffers.y.data = packed;
  buffers.y.outer_stride = TOKEN;
  buffers.gamma = gamma;
  OK(lanenorm_plan_forward(&plan, &buffers, 0));
  for (token = 0; token < TOKENS; token++) {
    for (head = 0; head < HEADS; head++) {
      size_t at = token * TOKEN + head * COLS;
      check_forward(&p, F32, before + at, gamma + head * COLS, NULL, packed + at, NULL, NULL);
    }
    for (i = token * TOKEN + HEADS * COLS; i < (token + 1) * TOKEN; i++) CHECK(packed[i] == before[i]);
  }
  memset(&of_all, 0, sizeof of_all);
  of_all.plan = &plan;
  of_all.forward = &buffers;
  buffers.x.data = again;
  buffers.y.data = again;
  for (threads = 1; threads <= THREADS; threads++) {
    memcpy(again, before, TOKENS * TOKEN * sizeof(float));
    run_tasks(of_all, threads);
    CHECK(same(F32, packed, again, TOKENS * TOKEN));
  }
  free(before);
  free(gamma);
  free(packed);
  free(again);
}

/* bf16 with gamma, beta and y in float: x + residual + bias, with all statistics, in rows with gaps between them. */
static void mixed_types(void) {
  enum { ROWS = 50, COLS = 70, STRIDE = 75 };
  size_t r, i, threads, exact = 0;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  task of_all;
  void *x = filled(BF16, ROWS * STRIDE, 0.0), *residual = filled(BF16, ROWS * COLS, 0.0), *bias = filled(BF16, COLS, 0.0);
  float *gamma = (float *)filled(F32, COLS, 1.0), *beta = (float *)filled(F32, COLS, 0.0);
  float *y = (float *)filled(F32, ROWS * COLS, 0.0), *again = (float *)filled(F32, ROWS * COLS, 0.0);
  float mean[ROWS], mean_lo[ROWS], rstd[ROWS];
  void *sum = allocate(ROWS * COLS * sizeof(uint16_t));
  desc.dtype = LANENORM_DTYPE_BF16;
  desc.gamma_dtype = LANENORM_DTYPE_F32;
  desc.y_dtype = LANENORM_DTYPE_F32;
  desc.cols = COLS;
  desc.eps = 1e-5;
  desc.tier = LANENORM_TIER_SCALAR;
  desc.store = LANENORM_STORE_STREAMING;
  OK(lanenorm_plan_init(&plan, &desc));
  CHECK(strcmp(lanenorm_plan_isa_name(&plan), "scalar") == 0);
  buffers.rows = ROWS;
  buffers.x.data = x;
  buffers.x.row_stride = STRIDE;
  buffers.residual.data = residual;
  buffers.bias = bias;
  buffers.sum.data = sum;
  buffers.gamma = gamma;
  buffers.beta = beta;
  buffers.y.data = y;
  buffers.mean = mean;
  buffers.mean_lo = mean_lo;
  buffers.rstd = rstd;
  OK(lanenorm_plan_forward(&plan, &buffers, 2));
  for (r = 0; r < ROWS; r++) {
    problem p = {1, 1, COLS, 1e-5, 0.0};
    double m, s, error;
    statistics(&p, BF16, (uint16_t *)sum + r * COLS, 0, &m, &s);
    error = fabs((double)mean[r] + (double)mean_lo[r] - m);
    exact += error < 1e-12;
    CHECK(near(F32, error, 0.0, 1.0 / s) && near(F32, (double)rstd[r], s, s));
    for (i = 0; i < COLS; i++) {
      double s_exact = get(BF16, x, r * STRIDE + i) + get(BF16, residual, r * COLS + i) + get(BF16, bias, i);
      double xhat = (get(BF16, sum, r * COLS + i) - m) * s, g = (double)gamma[i], b = (double)beta[i];
      /* Two sums, each rounded. */
      CHECK(fabs(get(BF16, sum, r * COLS + i) - s_exact) <= ldexp(1.0, -8) * (6.0 + fabs(s_exact)));
      CHECK(near(F32, (double)y[r * COLS + i], xhat * g + b, fabs(g) * (1.0 + fabs(xhat)) + fabs(b)));
    }
  }
  /* A row of bf16 is summed up in float without an error, unless one of its elements is very small. */
  CHECK(exact > ROWS / 2);
  memset(&of_all, 0, sizeof of_all);
  of_all.plan = &plan;
  of_all.forward = &buffers;
  buffers.y.data = again;
  for (threads = 1; threads <= THREADS; threads++) {
    memset(again, 0, ROWS * COLS * sizeof(float));
    run_tasks(of_all, threads);
    CHECK(same(F32, y, again, ROWS * COLS));
  }
  free(x);
  free(residual);
  free(bias);
  free(gamma);
  free(beta);
  free(y);
  free(again);
  free(sum);
}

/* Gradients in double, block by block: dx over dy, with a gradient that reaches x by the residual connection. */
static void blocks_of_gradients(void) {
  enum { ROWS = 300, COLS = 19 };
  problem p = {1, ROWS, COLS, 1e-5, 0.0};
  size_t i, threads;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_backward_buffers buffers = LANENORM_BACKWARD_INIT;
  task of_all;
  double *x = (double *)filled(F64, ROWS * COLS, 0.0), *dy = (double *)filled(F64, ROWS * COLS, 0.0);
  double *ds = (double *)filled(F64, ROWS * COLS, 0.0), *dx = (double *)allocate(ROWS * COLS * sizeof(double));
  double gamma[COLS], dgamma[COLS], dbeta[COLS], dgamma_again[COLS], dbeta_again[COLS];
  double *with_ds = (double *)allocate(ROWS * COLS * sizeof(double));
  for (i = 0; i < COLS; i++) gamma[i] = noise();
  desc.dtype = LANENORM_DTYPE_F64;
  desc.cols = COLS;
  desc.eps = p.eps;
  OK(lanenorm_plan_init(&plan, &desc));
  buffers.rows = ROWS;
  buffers.x.data = x;
  buffers.dy.data = dy;
  buffers.dx.data = dx;
  buffers.gamma = gamma;
  buffers.dgamma = dgamma;
  buffers.dbeta = dbeta;
  OK(lanenorm_plan_backward(&plan, &buffers, 2));
  check_backward(&p, F64, dy, x, gamma, dx, dgamma, dbeta);
  buffers.ds.data = ds;
  buffers.dx.data = with_ds;
  OK(lanenorm_plan_backward(&plan, &buffers, 0));
  for (i = 0; i < ROWS * COLS; i++) CHECK(with_ds[i] == dx[i] + ds[i]);
  memset(&of_all, 0, sizeof of_all);
  of_all.plan = &plan;
  of_all.backward = &buffers;
  OK(lanenorm_plan_backward_sizes(&plan, ROWS, &of_all.sizes));
  of_all.partials = allocate(of_all.sizes.partials_bytes);
  buffers.dy.data = dx;
  buffers.dx.data = dx;
  buffers.dgamma = dgamma_again;
  buffers.dbeta = dbeta_again;
  for (threads = 1; threads <= THREADS; threads++) {
    memcpy(dx, dy, ROWS * COLS * sizeof(double));
    run_tasks(of_all, threads);
    OK(lanenorm_plan_backward_finish(&plan, &buffers, of_all.partials));
    CHECK(same(F64, dx, with_ds, ROWS * COLS));
    CHECK(same(F64, dgamma, dgamma_again, COLS) && same(F64, dbeta, dbeta_again, COLS));
  }
  free(of_all.partials);
  free(x);
  free(dy);
  free(ds);
  free(dx);
  free(with_ds);
}

/* ---- Rows of 8 bits ---- */

/* int8 by row, in units of the scale; and uint8 with one scale for all, by one call and by the calls of an engine. */
static void quantized_rows(void) {
  enum { ROWS = 5, COLS = 64, N = ROWS * COLS };
  int8_t *q = (int8_t *)allocate(N);
  uint8_t *u = (uint8_t *)allocate(N), *again = (uint8_t *)allocate(N), zero_point, zero_point_again;
  float scale[ROWS], u_scale, u_scale_again, ranges[ROWS][2];
  float *x = (float *)filled(F32, N, 10.0), *y = (float *)allocate(N * sizeof(float));
  size_t r, i;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  lanenorm_scheme scheme = LANENORM_SCHEME_INIT, of_preset = LANENORM_SCHEME_INIT;
  lanenorm_quantized to = LANENORM_QUANTIZED_INIT;
  lanenorm_quantized_sizes sizes;
  desc.cols = COLS;
  desc.eps = 1e-5;
  OK(lanenorm_plan_init(&plan, &desc));
  of_preset.divisor = 1.0f;
  OK(lanenorm_scheme_init(&of_preset, LANENORM_PRESET_I8));
  CHECK(memcmp(&scheme, &of_preset, sizeof scheme) == 0);

  OK(lanenorm_plan_quantized_sizes(&plan, &scheme, ROWS, &sizes));
  CHECK(sizes.row_bytes == COLS && sizes.scales == ROWS && sizes.zero_points == 0);
  buffers.rows = ROWS;
  buffers.x.data = x;
  buffers.y.data = y;
  to.q.data = q;
  to.scale = scale;
  OK(lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 0));
  for (r = 0; r < ROWS; r++) {
    float amax = 0.0f;
    for (i = 0; i < COLS; i++) amax = fabsf(y[r * COLS + i]) > amax ? fabsf(y[r * COLS + i]) : amax;
    CHECK(scale[r] == amax / 127.0f);
    for (i = 0; i < COLS; i++) CHECK(fabsf(y[r * COLS + i] / scale[r] - (float)q[r * COLS + i]) <= 0.5f);
  }
  scheme.given_scale = -1.0f;
  scheme.scope = LANENORM_SCOPE_GIVEN;
  REFUSED(LANENORM_STATUS_SCHEME, lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 0));

  OK(lanenorm_scheme_init(&scheme, LANENORM_PRESET_ONNX_U8));
  buffers.y.data = NULL;
  to.q.data = u;
  to.scale = &u_scale;
  to.zero_point = &zero_point;
  OK(lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 1));
  for (i = 0; i < N; i++) CHECK(fabsf(y[i] - u_scale * (float)((int)u[i] - (int)zero_point)) <= 0.51f * u_scale);
  to.q.data = again;
  to.scale = &u_scale_again;
  to.zero_point = &zero_point_again;
  to.ranges = ranges[0];
  to.range_count = ROWS;
  for (r = 0; r < ROWS; r++) OK(lanenorm_plan_range_rows(&plan, &buffers, r, 1, ranges[r]));
  for (r = ROWS; r-- > 0;) OK(lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, r, 1));
  CHECK(u_scale == u_scale_again && zero_point == zero_point_again && memcmp(u, again, N) == 0);
  free(q);
  free(u);
  free(again);
  free(x);
  free(y);
}

/* ---- Gates ---- */

/* norm(x) * silu(z) beside norm(x) and the formula, by one call and by rows, over x; silu before the norm; and dz. */
static void gated_rows(void) {
  enum { ROWS = 5, COLS = 64, N = ROWS * COLS };
  float *x = (float *)filled(F32, N, 3.0), *z = (float *)filled(F32, N, 2.0);
  float *y = (float *)allocate(N * sizeof(float)), *gated = (float *)allocate(N * sizeof(float));
  size_t r, i;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  lanenorm_gate gate = LANENORM_GATE_INIT;
  lanenorm_backward_buffers backward = LANENORM_BACKWARD_INIT;
  lanenorm_gate_gradients gradients = LANENORM_GATE_GRADIENTS_INIT;
  desc.op = LANENORM_OP_RMS_NORM;
  desc.cols = COLS;
  desc.eps = 1e-5;
  OK(lanenorm_plan_init(&plan, &desc));
  buffers.rows = ROWS;
  buffers.x.data = x;
  buffers.y.data = y;
  gate.z.data = z;
  OK(lanenorm_plan_forward(&plan, &buffers, 1));
  buffers.y.data = gated;
  OK(lanenorm_plan_gate(&plan, &buffers, &gate, 0));
  for (i = 0; i < N; i++) {
    double silu = z[i] / (1.0 + exp(-(double)z[i]));
    CHECK(fabs(gated[i] - y[i] * silu) <= 1e-6 * (1.0 + fabs(y[i] * silu)));
  }
  gate.kind = LANENORM_GATE_KIND_SILU_BEFORE;
  OK(lanenorm_plan_gate(&plan, &buffers, &gate, 1));
  for (i = 0; i < N; i++) y[i] = (float)(x[i] * (z[i] / (1.0 + exp(-(double)z[i]))));
  buffers.x.data = buffers.y.data = y;
  OK(lanenorm_plan_forward(&plan, &buffers, 1));
  for (i = 0; i < N; i++) CHECK(fabsf(gated[i] - y[i]) <= 2e-6f * (1.0f + fabsf(y[i])));
  buffers.x.data = buffers.y.data = x;
  for (r = ROWS; r-- > 0;) OK(lanenorm_plan_gate_rows(&plan, &buffers, &gate, r, 1));
  CHECK(memcmp(x, gated, N * sizeof(float)) == 0);
  gate.z.data = x;
  REFUSED(LANENORM_STATUS_OVERLAP, lanenorm_plan_gate(&plan, &buffers, &gate, 1));
  /* x is norm(x * silu(z)) by now. dz of sigmoid behind the norm is dy * norm(x) * s * (1 - s). */
  gate.z.data = z;
  gate.kind = LANENORM_GATE_KIND_SIGMOID;
  buffers.x.data = x;
  buffers.y.data = y;
  OK(lanenorm_plan_forward(&plan, &buffers, 1));
  backward.rows = ROWS;
  backward.dy.data = backward.x.data = x;
  gradients.dz.data = gated;
  OK(lanenorm_plan_gate_backward(&plan, &backward, &gate, &gradients, 0));
  for (i = 0; i < N; i++) {
    double sigmoid = 1.0 / (1.0 + exp(-(double)z[i])), dz = (double)x[i] * y[i] * sigmoid * (1.0 - sigmoid);
    CHECK(fabs(gated[i] - dz) <= 2e-6 * (1.0 + fabs(dz)));
  }
  gradients.dz.data = z;
  REFUSED(LANENORM_STATUS_OVERLAP, lanenorm_plan_gate_backward(&plan, &backward, &gate, &gradients, 1));
  free(x);
  free(z);
  free(y);
  free(gated);
}

/* ---- A second gamma and beta ---- */

/* Two outputs beside two calls, by one call and by rows, the first one over x. */
static void second_outputs(void) {
  enum { ROWS = 5, COLS = 64, N = ROWS * COLS };
  float *x = (float *)filled(F32, N, 3.0), *gamma = (float *)filled(F32, COLS, 1.0);
  float *y = (float *)allocate(N * sizeof(float)), *second_y = (float *)allocate(N * sizeof(float));
  float *expected = (float *)allocate(N * sizeof(float));
  size_t r;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  lanenorm_second second = LANENORM_SECOND_INIT;
  desc.cols = COLS;
  desc.eps = 1e-5;
  OK(lanenorm_plan_init(&plan, &desc));
  buffers.rows = ROWS;
  buffers.x.data = x;
  buffers.y.data = y;
  second.y.data = second_y;
  second.gamma = second.beta = gamma;
  OK(lanenorm_plan_second(&plan, &buffers, &second, 0));
  buffers.y.data = expected;
  OK(lanenorm_plan_forward(&plan, &buffers, 1));
  CHECK(memcmp(y, expected, N * sizeof(float)) == 0);
  buffers.gamma = buffers.beta = gamma;
  OK(lanenorm_plan_forward(&plan, &buffers, 1));
  CHECK(memcmp(second_y, expected, N * sizeof(float)) == 0);
  buffers.gamma = buffers.beta = NULL;
  buffers.y.data = x;
  second.y.data = expected;
  for (r = ROWS; r-- > 0;) OK(lanenorm_plan_second_rows(&plan, &buffers, &second, r, 1));
  CHECK(memcmp(x, y, N * sizeof(float)) == 0 && memcmp(expected, second_y, N * sizeof(float)) == 0);
  second.y.data = x;
  REFUSED(LANENORM_STATUS_OVERLAP, lanenorm_plan_second(&plan, &buffers, &second, 1));
  free(x);
  free(gamma);
  free(y);
  free(second_y);
  free(expected);
}

/* ---- Tensors of channels ---- */

/* Groups of channels in both orders, beside rows of layer normalization, and in place; their gradients; pixels. */
static void images(void) {
  enum { SAMPLES = 2, CHANNELS = 6, PIXELS = 20, GROUPS = 3, N = SAMPLES * CHANNELS * PIXELS };
  float *x = (float *)filled(F32, N, 3.0), *last = (float *)allocate(N * sizeof(float));
  float *y = (float *)allocate(N * sizeof(float)), *rows = (float *)allocate(N * sizeof(float));
  float dgamma[CHANNELS], rstd[SAMPLES * GROUPS];
  size_t s, c, p;
  lanenorm_plan plan, of_rows;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_channels channels = LANENORM_CHANNELS_INIT;
  lanenorm_channel_gradients gradients = LANENORM_CHANNEL_GRADIENTS_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  desc.cols = CHANNELS;
  desc.eps = 1e-5;
  OK(lanenorm_plan_init(&plan, &desc));
  desc.cols = CHANNELS / GROUPS * PIXELS;
  OK(lanenorm_plan_init(&of_rows, &desc));
  buffers.rows = SAMPLES * GROUPS;
  buffers.x.data = x;
  buffers.y.data = rows;
  OK(lanenorm_plan_forward(&of_rows, &buffers, 1));
  channels.samples = SAMPLES;
  channels.pixels = PIXELS;
  channels.groups = GROUPS;
  channels.x = x;
  channels.y = y;
  channels.rstd = rstd;
  OK(lanenorm_plan_channels(&plan, &channels, 0));
  CHECK(memcmp(y, rows, N * sizeof(float)) == 0);
  for (s = 0; s < SAMPLES; s++)
    for (c = 0; c < CHANNELS; c++)
      for (p = 0; p < PIXELS; p++) last[(s * PIXELS + p) * CHANNELS + c] = x[(s * CHANNELS + c) * PIXELS + p];
  channels.order = LANENORM_CHANNEL_ORDER_LAST;
  channels.x = channels.y = last;
  OK(lanenorm_plan_channels(&plan, &channels, 1));
  for (s = 0; s < SAMPLES; s++)
    for (c = 0; c < CHANNELS; c++)
      for (p = 0; p < PIXELS; p++)
        CHECK(last[(s * PIXELS + p) * CHANNELS + c] == rows[(s * CHANNELS + c) * PIXELS + p]);
  channels.order = LANENORM_CHANNEL_ORDER_FIRST;
  channels.x = x;
  channels.rstd = NULL;
  gradients.dy = rows;
  gradients.dx = y;
  gradients.dgamma = dgamma;
  OK(lanenorm_plan_channels_backward(&plan, &channels, &gradients, 1));
  /* dy is xhat: its projection on xhat is all of it, but for eps. */
  for (p = 0; p < N; p++) CHECK(fabsf(y[p]) <= 1e-3f);
  for (c = 0; c < CHANNELS; c++) CHECK(dgamma[c] > 0.0f);
  channels.groups = 0;
  channels.y = last;
  OK(lanenorm_plan_channels(&plan, &channels, 1));
  for (p = 0; p < PIXELS; p++) {
    double sum = 0.0;
    for (c = 0; c < CHANNELS; c++) sum += last[c * PIXELS + p];
    CHECK(fabs(sum) <= 1e-5);
  }
  channels.y = x + 1;
  channels.samples = 1;
  REFUSED(LANENORM_STATUS_OVERLAP, lanenorm_plan_channels(&plan, &channels, 1));
  free(x);
  free(last);
  free(y);
  free(rows);
}

/* ---- Errors ---- */

static void errors(void) {
  float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[8] = {9, 9, 9, 9, 9, 9, 9, 9};
  size_t i;
  lanenorm_plan plan;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  memset(&plan, 0, sizeof plan);
  REFUSED(LANENORM_STATUS_NULL_POINTER, lanenorm_layer_norm_f32(NULL, 2, 4, NULL, NULL, 0.0f, y, NULL, NULL, 1));
  CHECK(strcmp(lanenorm_last_error_message(), "x is NULL, expected 2 rows of 4") == 0);
  REFUSED(LANENORM_STATUS_NULL_POINTER, lanenorm_add_rms_norm_f32(x, NULL, 2, 4, NULL, 0.0f, 0.0f, NULL, y, 1));
  REFUSED(LANENORM_STATUS_MISALIGNED, lanenorm_rms_norm_f32((const float *)(const void *)((const char *)x + 1), 1, 4, NULL,
                                                            0.0f, 0.0f, y, NULL, 1));
  REFUSED(LANENORM_STATUS_OVERFLOW, lanenorm_layer_norm_f32(x, SIZE_MAX, 4, NULL, NULL, 0.0f, y, NULL, NULL, 1));
  REFUSED(LANENORM_STATUS_OVERLAP, lanenorm_layer_norm_f32(x, 1, 4, NULL, NULL, 0.0f, x + 1, NULL, NULL, 1));
  REFUSED(LANENORM_STATUS_EPS, lanenorm_layer_norm_f32(x, 2, 4, NULL, NULL, -1.0f, y, NULL, NULL, 1));
  REFUSED(LANENORM_STATUS_UNSUPPORTED, lanenorm_rms_norm_backward_f32(x, x, NULL, 2, 4, NULL, 0.0f, 0.0f, NULL, NULL, 1));
  REFUSED(LANENORM_STATUS_UNINITIALIZED, lanenorm_plan_forward(&plan, &buffers, 1));
  CHECK(strcmp(lanenorm_plan_isa_name(&plan), "unavailable") == 0);
  desc.cols = 4;
  desc.tier = 77;
  REFUSED(LANENORM_STATUS_UNSUPPORTED, lanenorm_plan_init(&plan, &desc));
#if defined(__x86_64__)
  desc.tier = LANENORM_TIER_NEON;
  REFUSED(LANENORM_STATUS_ISA, lanenorm_plan_init(&plan, &desc));
#endif
  desc.tier = LANENORM_TIER_DEFAULT;
  OK(lanenorm_plan_init(&plan, &desc));
  buffers.rows = 2;
  buffers.x.data = x;
  buffers.y.data = y;
  REFUSED(LANENORM_STATUS_SIZE, lanenorm_plan_forward_rows(&plan, &buffers, 1, 2));
  buffers.y.row_stride = 3;
  REFUSED(LANENORM_STATUS_STRIDE, lanenorm_plan_forward(&plan, &buffers, 1));
  for (i = 0; i < 8; i++) CHECK(x[i] == (float)(i + 1) && y[i] == 9.0f);
  OK(lanenorm_layer_norm_f32(NULL, 0, 4, NULL, NULL, 0.0f, NULL, NULL, NULL, 0));
  CHECK(strcmp(lanenorm_status_message(LANENORM_STATUS_OK), "ok") == 0);
  CHECK(strcmp(lanenorm_status_message(1000), "unknown status") == 0);
}

int main(void) {
  static const size_t shapes[][2] = {{1, 8}, {40, 33}, {9, 200}, {5, 1100}, {2, 5000}};
  size_t i;
  int t;
  if (strcmp(lanenorm_isa_name(), "unavailable") == 0) {
    float x = 1.0f, y = 9.0f;
    REFUSED(LANENORM_STATUS_ISA, lanenorm_layer_norm_f32(&x, 1, 1, NULL, NULL, 0.0f, &y, NULL, NULL, 1));
    CHECK(y == 9.0f);
    printf("LANENORM_ISA is refused: %s\n", lanenorm_last_error_message());
    return 0;
  }
  for (i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    problem layer_norm_problem = {1, 0, 0, 1e-5, 0.0}, rms_norm_problem = {0, 0, 0, 1e-6, 1.0};
    layer_norm_problem.rows = rms_norm_problem.rows = shapes[i][0];
    layer_norm_problem.cols = rms_norm_problem.cols = shapes[i][1];
    for (t = F32; t <= BF16; t++) {
      functions((type)t, &layer_norm_problem, t == F32 ? 1e4 : 0.0);
      functions((type)t, &rms_norm_problem, 0.0);
      gradients((type)t, &layer_norm_problem);
      gradients((type)t, &rms_norm_problem);
    }
  }
  packed_heads();
  mixed_types();
  blocks_of_gradients();
  quantized_rows();
  gated_rows();
  second_outputs();
  images();
  errors();
  printf("lanenorm %s, %s: all checks passed\n", lanenorm_version(), lanenorm_isa_name());
  return 0;
}
