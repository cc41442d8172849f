/*
 * A program loads the library, a thread of it makes a call with help and ends, and the library is unloaded at once:
 * a helper that has been started then and has not come to run must find its code. Many times, each in a process of
 * its own. This is C11 for POSIX systems; examples/c/run.sh builds it and runs it with the path of the library.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <lanenorm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 200, COLS = 1024, TIMES = 100 };
static float x[ROWS * COLS], y[ROWS * COLS];

static void *call(void *library) {
  lanenorm_status (*f)(const float *, size_t, size_t, const float *, const float *, float, float *, float *, float *,
                       size_t);
  *(void **)&f = dlsym(library, "lanenorm_layer_norm_f32");
  if (f == NULL || f(x, ROWS, COLS, NULL, NULL, 1e-5f, y, NULL, NULL, 0) != LANENORM_STATUS_OK) _exit(2);
  return NULL;
}

static int load_call_unload(const char *path) {
  const struct timespec while_helpers_come = {0, 20000000};
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  pthread_t thread;
  if (library == NULL || pthread_create(&thread, NULL, call, library) != 0) return 3;
  if (pthread_join(thread, NULL) != 0 || dlclose(library) != 0) return 4;
  nanosleep(&while_helpers_come, NULL);
  return 0;
}

int main(int argc, char **argv) {
  int i, status, failed = 0;
  if (argc < 2) {
    fprintf(stderr, "unload.c: expected the path of the library\n");
    return 2;
  }
  setenv("RAYON_NUM_THREADS", "4", 1);
  for (i = 0; i < TIMES; i++) {
    pid_t pid = fork();
    if (pid == 0) _exit(load_call_unload(argv[1]));
    failed += pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
  }
  if (failed) fprintf(stderr, "unload.c: %d of %d processes that unload the library fail\n", failed, TIMES);
  else printf("%d processes that unload the library\n", TIMES);
  return failed != 0;
}
