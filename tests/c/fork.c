/*
 * A child process has the memory of its parent and none of its threads. The same call has the same bits in both, and
 * several threads do it in both. This is C11 for POSIX systems; examples/c/run.sh builds and runs it.
 */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <lanenorm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 512, COLS = 768, THREADS = 4, CHILDREN = 5 };
static float x[ROWS * COLS], y[ROWS * COLS], expected[ROWS * COLS];

/* The number of threads of this process; 0 if the system does not tell. */
static int threads(void) {
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *task;
  int n = 0;
  if (tasks == NULL) return 0;
  while ((task = readdir(tasks)) != NULL) n += task->d_name[0] != '.';
  closedir(tasks);
  return n;
}

static void call(float *to, size_t with) {
  if (lanenorm_layer_norm_f32(x, ROWS, COLS, NULL, NULL, 1e-5f, to, NULL, NULL, with) != LANENORM_STATUS_OK) {
    fprintf(stderr, "fork.c: %s\n", lanenorm_last_error_message());
    _exit(2);
  }
}

static int is_right(const char *process) {
  memset(y, 0, sizeof y);
  call(y, THREADS);
  if (memcmp(y, expected, sizeof y) != 0) {
    fprintf(stderr, "fork.c: the %s has other bits\n", process);
    return 0;
  }
  if (threads() == 1) {
    fprintf(stderr, "fork.c: the %s has one thread, expected some that help\n", process);
    return 0;
  }
  return 1;
}

int main(void) {
  size_t i;
  int child, status, all_right;
  setenv("RAYON_NUM_THREADS", "4", 1);
  for (i = 0; i < ROWS * COLS; i++) x[i] = (float)(i * 37 % 101);
  call(expected, 1);
  all_right = is_right("parent before it forks");
  for (child = 0; child < CHILDREN; child++) {
    pid_t pid = fork();
    if (pid == 0) {
      alarm(100); /* A child that hangs is ended. */
      _exit(is_right("child") ? 0 : 1);
    }
    all_right &= pid > 0 && is_right("parent");
    if (waitpid(pid, &status, 0) != pid || status != 0) {
      fprintf(stderr, "fork.c: the child ends with the status %#x\n", (unsigned)status);
      all_right = 0;
    }
  }
  if (all_right) printf("%d children and their parent: the same bits\n", CHILDREN);
  return all_right ? 0 : 1;
}
