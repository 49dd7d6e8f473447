/* Two models, linked into one program, each run by two threads at the same time; one of them with a pool of its own. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "first/model.h"
#include "second/model.h"

enum { ROWS = 37, TIMES = 50 };

#define CHECK(condition, ...) \
  do { if (!(condition)) { fprintf(stderr, __VA_ARGS__); fputc('\n', stderr); exit(1); } } while (0)

static octavo_handle *first, *second;

static void *scratch(int64_t bytes) {
  void *p = aligned_alloc(OCTAVO_WORKSPACE_ALIGNMENT, ((size_t)bytes + 64) / 64 * 64);
  CHECK(p, "out of memory");
  return p;
}

static void *run_first(void *argument) {
  const octavo_threads *threads = argument;
  float x[ROWS * 3], y[ROWS * 3];
  int64_t bytes;
  int32_t status = octavo_first_workspace(first, ROWS, threads, &bytes);
  CHECK(status == OCTAVO_OK, "first: %s", octavo_first_error_string(status));
  void *workspace = scratch(bytes);
  memset(workspace, 0, (size_t)bytes);
  for (int t = 0; t < TIMES; t++) {
    for (int i = 0; i < ROWS * 3; i++) x[i] = (float)(i + t);
    status = octavo_first(first, ROWS, x, y, workspace, bytes, threads);
    CHECK(status == OCTAVO_OK, "first: %s", octavo_first_error_string(status));
    for (int i = 0; i < ROWS * 3; i++) CHECK(y[i] == x[i] * 2 + 7, "first: y[%d] is %f", i, (double)y[i]);
  }
  free(workspace);
  return NULL;
}

static void *run_second(void *argument) {
  (void)argument;
  float x[ROWS];
  const float *y;
  int64_t bytes, found;
  CHECK(octavo_second_model_workspace(second, ROWS, NULL, &bytes) == OCTAVO_OK, "second: workspace");
  void *workspace = scratch(bytes);
  for (int t = 0; t < TIMES; t++) {
    for (int i = 0; i < ROWS; i++) x[i] = (float)(i % 4 - 2);
    int32_t status = octavo_second_model(second, ROWS, x, &y, &found, workspace, bytes, NULL);
    CHECK(status == OCTAVO_OK, "second: %s", octavo_second_model_error_string(status));
    CHECK(found == 9, "second: found %lld", (long long)found);
    for (int i = 0; i < found; i++) CHECK(y[i] == 1, "second: y[%d] is %f", i, (double)y[i]);
  }
  free(workspace);
  return NULL;
}

int main(int argc, char **argv) {
  CHECK(argc == 3, "usage: two_models FIRST_WEIGHTS SECOND_WEIGHTS");
  octavo_threads pool;
  pthread_t thread[4];
  CHECK(octavo_first_abi_version() == OCTAVO_ABI_VERSION, "another version of the interface");
  CHECK(octavo_first_query()->inputs == 1 && octavo_first_query()->symbols == 1, "query");
  CHECK(strstr(octavo_second_model_query()->metadata, "\"found\""), "metadata");
  CHECK(octavo_first_load("/nowhere/weights.bin", &first) == OCTAVO_ERROR_FILE, "a missing file");
  int32_t status = octavo_first_load(argv[1], &first);
  CHECK(status == OCTAVO_OK, "load: %s", octavo_first_error_string(status));
  status = octavo_second_model_load(argv[2], &second);
  CHECK(status == OCTAVO_OK, "load: %s", octavo_second_model_error_string(status));
  CHECK(octavo_first_run(second, NULL, 0, NULL, 0, NULL, 0, NULL) == OCTAVO_ERROR_HANDLE, "a handle of another model");
  CHECK(octavo_first_threads_create(2, &pool) == OCTAVO_OK, "threads");
  pthread_create(&thread[0], NULL, run_first, &pool);
  pthread_create(&thread[1], NULL, run_first, NULL);
  pthread_create(&thread[2], NULL, run_second, NULL);
  pthread_create(&thread[3], NULL, run_second, NULL);
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  octavo_first_threads_destroy(&pool);
  octavo_first_free(first);
  octavo_second_model_free(second);
  octavo_first_free(NULL);
  puts("ok");
  return 0;
}
