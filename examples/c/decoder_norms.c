/*
 * The normalizations of a decoder, driven by a thread team as inference engines have one (ggml's, say): every thread calls with its
 * index and the number of threads, works on its rows, and meets the others at a barrier. Each node takes h = h + x and
 * y = rms_norm(h) * gamma, on 4096 columns, as before every sublayer. It is timed against the loop of such engines: the
 * sum of squares in double, then scale, then multiply by gamma. --quick: a few rounds, to see that it works.
 */
#define _POSIX_C_SOURCE 200809L
#include <lanenorm.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLS = 4096, MAX_ROWS = 512, NODES = 4, MAX_THREADS = 16, MAX_ROUNDS = 400 };
static const float EPS = 1e-6f;

static void fail(const char *what) {
  fprintf(stderr, "decoder_norms: %s: %s\n", what, lanenorm_last_error_message());
  exit(1);
}

/* ---- The team ---- */

typedef void (*job_function)(const void *job, size_t ith, size_t nth);

typedef struct {
  size_t nth;
  /* At the barrier: how many threads have come, and how often all have come. */
  size_t arrived, passed;
  job_function run;
  const void *job;
  int stop;
  pthread_t threads[MAX_THREADS];
} team;

typedef struct {
  team *of;
  size_t ith;
} member;

/* Returns when all threads of the team have come. */
static void barrier(team *t) {
  size_t passed = __atomic_load_n(&t->passed, __ATOMIC_RELAXED);
  unsigned spins = 0;
  if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->nth) {
    __atomic_store_n(&t->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&t->passed, passed + 1, __ATOMIC_RELEASE);
    return;
  }
  while (__atomic_load_n(&t->passed, __ATOMIC_ACQUIRE) == passed) {
    if (++spins % 1000 == 0) sched_yield();
  }
}

static void *work(void *argument) {
  member m = *(member *)argument;
  free(argument);
  for (;;) {
    barrier(m.of);
    if (m.of->stop) return NULL;
    m.of->run(m.of->job, m.ith, m.of->nth);
    barrier(m.of);
  }
}

/* The calling thread is number 0. */
static void start(team *t, size_t nth) {
  size_t ith;
  memset(t, 0, sizeof *t);
  t->nth = nth;
  for (ith = 1; ith < nth; ith++) {
    member *m = (member *)malloc(sizeof *m);
    if (m == NULL) fail("memory");
    m->of = t;
    m->ith = ith;
    if (pthread_create(&t->threads[ith], NULL, work, m) != 0) fail("threads");
  }
}

static void run(team *t, job_function function, const void *job) {
  t->run = function;
  t->job = job;
  barrier(t);
  function(job, 0, t->nth);
  barrier(t);
}

static void finish(team *t) {
  size_t ith;
  t->stop = 1;
  barrier(t);
  for (ith = 1; ith < t->nth; ith++) pthread_join(t->threads[ith], NULL);
}

/* ---- The nodes ---- */

typedef struct {
  const lanenorm_plan *plan;
  /* h is in place: the sum goes over the residual. */
  lanenorm_forward_buffers buffers;
} node;

/* The rows of a thread. */
static size_t first_row(size_t rows, size_t ith, size_t nth) { return rows * ith / nth; }

static void lanenorm_node(const void *job, size_t ith, size_t nth) {
  const node *n = (const node *)job;
  size_t first = first_row(n->buffers.rows, ith, nth), end = first_row(n->buffers.rows, ith + 1, nth);
  if (lanenorm_plan_forward_rows(n->plan, &n->buffers, first, end - first) != LANENORM_STATUS_OK) fail("forward_rows");
}

/* The loop of engines, row by row, so that each row is read from memory only once. */
static void engine_node(const void *job, size_t ith, size_t nth) {
  const node *n = (const node *)job;
  const float *gamma = (const float *)n->buffers.gamma;
  size_t r, i, end = first_row(n->buffers.rows, ith + 1, nth);
  for (r = first_row(n->buffers.rows, ith, nth); r < end; r++) {
    const float *x = (const float *)n->buffers.x.data + r * COLS;
    float *h = (float *)n->buffers.sum.data + r * COLS, *y = (float *)n->buffers.y.data + r * COLS;
    double sum = 0.0;
    float scale;
    for (i = 0; i < COLS; i++) h[i] += x[i];
    for (i = 0; i < COLS; i++) sum += (double)(h[i] * h[i]);
    scale = 1.0f / sqrtf((float)(sum / COLS) + EPS);
    for (i = 0; i < COLS; i++) y[i] = h[i] * scale;
    for (i = 0; i < COLS; i++) y[i] *= gamma[i];
  }
}

/* ---- The comparison ---- */

typedef struct {
  /* The outputs of the sublayers, and the gammas. */
  float *x[NODES], *gamma[NODES];
  float *h, *y;
  lanenorm_plan plan;
} decoder;

static float *filled(size_t n) {
  static uint32_t state = 1;
  size_t i;
  float *p = (float *)malloc(n * sizeof *p);
  if (p == NULL) fail("memory");
  for (i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    p[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
  }
  return p;
}

static node node_of(const decoder *d, size_t i, size_t rows) {
  node n;
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  buffers.rows = rows;
  buffers.x.data = d->x[i];
  buffers.residual.data = d->h;
  buffers.sum.data = d->h;
  buffers.gamma = d->gamma[i];
  buffers.y.data = d->y;
  n.plan = &d->plan;
  n.buffers = buffers;
  return n;
}

/* Makes the normalizations of passes over all layers; returns the seconds of one pass. */
static double pass(const decoder *d, team *t, job_function function, size_t rows) {
  struct timespec from, to;
  size_t i;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (i = 0; i < NODES; i++) {
    node n = node_of(d, i, rows);
    run(t, function, &n);
  }
  clock_gettime(CLOCK_MONOTONIC, &to);
  return ((double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9) / NODES;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
  qsort(v, n, sizeof *v, compare);
  return v[n / 2];
}

/* Any number of threads gives the bits of one call, and these are close to the engine's numbers. */
static void check(const decoder *d, const float *h, size_t max_threads) {
  enum { ROWS = 37 };
  size_t bytes = ROWS * COLS * sizeof(float), i, nth;
  float *want_h = (float *)malloc(bytes), *want_y = (float *)malloc(bytes);
  if (want_h == NULL || want_y == NULL) fail("memory");
  memcpy(d->h, h, bytes);
  for (i = 0; i < NODES; i++) {
    node n = node_of(d, i, ROWS);
    if (lanenorm_plan_forward(&d->plan, &n.buffers, 0) != LANENORM_STATUS_OK) fail("forward");
  }
  memcpy(want_h, d->h, bytes);
  memcpy(want_y, d->y, bytes);
  for (nth = 1; nth <= max_threads; nth++) {
    team t;
    start(&t, nth);
    memcpy(d->h, h, bytes);
    memset(d->y, 0, bytes);
    pass(d, &t, lanenorm_node, ROWS);
    if (memcmp(d->h, want_h, bytes) != 0 || memcmp(d->y, want_y, bytes) != 0) fail("threads change bits");
    memcpy(d->h, h, bytes);
    pass(d, &t, engine_node, ROWS);
    finish(&t);
    for (i = 0; i < ROWS * COLS; i++) {
      if (!(fabsf(d->y[i] - want_y[i]) <= 1e-5f)) fail("the engine's loop disagrees");
    }
  }
  free(want_h);
  free(want_y);
}

int main(int argc, char **argv) {
  int quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  size_t most = processors < 1 ? 1 : processors > MAX_THREADS ? (size_t)MAX_THREADS : (size_t)processors;
  size_t i, nth, rows, rounds;
  static double ours[MAX_ROUNDS], engines[MAX_ROUNDS];
  decoder d;
  lanenorm_desc desc = LANENORM_DESC_INIT;
  float *h = filled((size_t)MAX_ROWS * COLS);
  d.h = filled((size_t)MAX_ROWS * COLS);
  d.y = filled((size_t)MAX_ROWS * COLS);
  for (i = 0; i < NODES; i++) {
    d.x[i] = filled((size_t)MAX_ROWS * COLS);
    d.gamma[i] = filled(COLS);
  }
  desc.op = LANENORM_OP_RMS_NORM;
  desc.cols = COLS;
  desc.eps = (double)EPS;
  if (lanenorm_plan_init(&d.plan, &desc) != LANENORM_STATUS_OK) fail("plan");
  check(&d, h, most < 4 ? 4 : most);

  printf("h += x, y = rms_norm(h) * gamma, %d columns of float, %s; microseconds for each, medians of interleaved rounds\n",
         COLS, lanenorm_plan_isa_name(&d.plan));
  printf("%8s %8s %10s %10s %8s\n", "rows", "threads", "lanenorm", "engine", "times");
  for (nth = 1; nth <= most; nth = nth < most && 2 * nth > most ? most : 2 * nth) {
    team t;
    start(&t, nth);
    for (rows = 1; rows <= MAX_ROWS; rows *= quick ? 16 : 2) {
      size_t round;
      double a, b;
      memcpy(d.h, h, rows * COLS * sizeof(float));
      rounds = quick ? 3 : rows <= 16 ? MAX_ROUNDS : MAX_ROUNDS / 4;
      for (round = 0; round < rounds; round++) {
        ours[round] = pass(&d, &t, lanenorm_node, rows);
        engines[round] = pass(&d, &t, engine_node, rows);
      }
      a = median(ours, rounds);
      b = median(engines, rounds);
      printf("%8lu %8lu %10.2f %10.2f %8.2f\n", (unsigned long)rows, (unsigned long)nth, a * 1e6, b * 1e6, b / a);
    }
    finish(&t);
  }
  for (i = 0; i < NODES; i++) {
    free(d.x[i]);
    free(d.gamma[i]);
  }
  free(d.h);
  free(d.y);
  free(h);
  return 0;
}
