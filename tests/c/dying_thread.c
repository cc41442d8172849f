/*
 * Destructors of a thread's keys may call, also in a later round, when all that the library keeps for the thread may be
 * gone. This is C11 for POSIX systems; examples/c/run.sh builds and runs it.
 */
#define _POSIX_C_SOURCE 200809L
#include <lanenorm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 512, COLS = 768, THREADS = 4, DYING = 6, ROUNDS = 2 };
static float x[ROWS * COLS], y[ROWS * COLS], expected[ROWS * COLS];
static pthread_key_t key;

/* The main function of a thread. Some threads call before they die. */
typedef struct {
  int calls_before;
  int rounds;
  int right;
} life;

static lanenorm_status call(float *to, float eps, size_t threads) {
  return lanenorm_layer_norm_f32(x, ROWS, COLS, NULL, NULL, eps, to, NULL, NULL, threads);
}

static int is_right(void) {
  memset(y, 0, sizeof y);
  /* A call that is refused leaves a message, which is kept for the thread. */
  return call(y, 1e-5f, THREADS) == LANENORM_STATUS_OK && memcmp(y, expected, sizeof y) == 0 &&
         call(y, -1.0f, THREADS) == LANENORM_STATUS_EPS && strstr(lanenorm_last_error_message(), "eps") != NULL;
}

static void destructor(void *value) {
  life *of = (life *)value;
  if (++of->rounds < ROUNDS) pthread_setspecific(key, of);
  of->right += is_right();
}

static void *thread(void *value) {
  life *of = (life *)value;
  pthread_setspecific(key, of);
  if (of->calls_before) of->right -= !is_right();
  return NULL;
}

int main(void) {
  size_t i;
  int n;
  setenv("RAYON_NUM_THREADS", "4", 1);
  for (i = 0; i < ROWS * COLS; i++) x[i] = (float)(i * 37 % 101);
  if (call(expected, 1e-5f, 1) != LANENORM_STATUS_OK || pthread_key_create(&key, destructor) != 0) return 2;
  for (n = 0; n < DYING; n++) {
    life of = {0, 0, 0};
    pthread_t id;
    of.calls_before = n % 2;
    if (pthread_create(&id, NULL, thread, &of) != 0 || pthread_join(id, NULL) != 0) return 2;
    if (of.rounds != ROUNDS || of.right != ROUNDS) {
      fprintf(stderr, "dying_thread.c: %d of %d rounds are right, expected %d\n", of.right, of.rounds, ROUNDS);
      return 1;
    }
  }
  printf("%d dying threads: the same bits\n", DYING);
  return 0;
}
