/* Runs a compiled model from C: c_runner MODEL.so WEIGHTS REQUEST RESPONSE [CALLS].  With CALLS it then runs it so many times more
   and prints the nanoseconds that each took.
   A request is the counts of inputs and outputs (two int32), then the tensors, inputs first: dtype, rank (int32), dims, bytes
   (int64), and for an input its data.  The response is the outputs in the same form, with data.  Built against the model.h of any
   artifact: only the part that all models share is used, through the names without the model's own. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "model.h"

#define CHECK(condition, ...) \
  do { if (!(condition)) { fprintf(stderr, __VA_ARGS__); fputc('\n', stderr); exit(1); } } while (0)

typedef int32_t load_f(const char *, octavo_handle **);
typedef int32_t size_f(const octavo_handle *, const octavo_tensor *, int32_t, const octavo_threads *, int64_t *);
typedef int32_t run_f(const octavo_handle *, const octavo_tensor *, int32_t, octavo_tensor *, int32_t, void *, int64_t,
                      const octavo_threads *);
typedef void free_f(octavo_handle *);
typedef const char *text_f(int32_t);

static void *aligned(int64_t bytes) {
  size_t rounded = ((size_t)bytes + 64) / 64 * 64;
  void *p = aligned_alloc(64, rounded);
  CHECK(p, "out of memory: %lld bytes", (long long)bytes);
  return p;
}

static void take(void *to, size_t bytes, FILE *file) { CHECK(fread(to, 1, bytes, file) == bytes, "the request is cut short"); }

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int64_t read_tensor(octavo_tensor *t, FILE *file) {
  int64_t bytes;
  take(&t->dtype, 4, file);
  take(&t->rank, 4, file);
  t->shape = aligned(8 * t->rank);
  take(t->shape, 8 * (size_t)t->rank, file);
  take(&bytes, 8, file);
  t->data = aligned(bytes);
  return bytes;
}

static int64_t size_of(int32_t dtype) {
  switch (dtype) {
    case OCTAVO_F64: case OCTAVO_I64: case OCTAVO_U64: case OCTAVO_C64: return 8;
    case OCTAVO_F32: case OCTAVO_I32: case OCTAVO_U32: return 4;
    case OCTAVO_F16: case OCTAVO_BF16: case OCTAVO_I16: case OCTAVO_U16: return 2;
    case OCTAVO_C128: return 16;
    default: return 1;
  }
}

int main(int argc, char **argv) {
  CHECK(argc == 5 || argc == 6, "usage: c_runner MODEL.so WEIGHTS REQUEST RESPONSE [CALLS]");
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  CHECK(library, "%s", dlerror());
  load_f *load = (load_f *)dlsym(library, "octavo_load");
  size_f *workspace_size = (size_f *)dlsym(library, "octavo_workspace_size");
  run_f *run = (run_f *)dlsym(library, "octavo_run");
  free_f *release = (free_f *)dlsym(library, "octavo_free");
  text_f *text = (text_f *)dlsym(library, "octavo_error_string");
  CHECK(load && workspace_size && run && release && text, "the library lacks a function of the C interface");

  FILE *request = fopen(argv[3], "rb");
  CHECK(request, "cannot open %s", argv[3]);
  int32_t counts[2];
  take(counts, sizeof counts, request);
  octavo_tensor *inputs = calloc((size_t)counts[0] + 1, sizeof *inputs), *outputs = calloc((size_t)counts[1] + 1, sizeof *outputs);
  for (int k = 0; k < counts[0]; k++) {
    int64_t bytes = read_tensor(&inputs[k], request);
    take(inputs[k].data, (size_t)bytes, request);
  }
  for (int k = 0; k < counts[1]; k++) read_tensor(&outputs[k], request);
  fclose(request);

  octavo_handle *handle;
  int64_t bytes;
  int32_t status = load(argv[2], &handle);
  CHECK(status == OCTAVO_OK, "load: %s", text(status));
  status = workspace_size(handle, inputs, counts[0], NULL, &bytes);
  CHECK(status == OCTAVO_OK, "workspace_size: %s", text(status));
  void *workspace = aligned(bytes);
  status = run(handle, inputs, counts[0], outputs, counts[1], workspace, bytes, NULL);
  CHECK(status == OCTAVO_OK, "run: %s", text(status));
  if (argc == 6) {
    long calls = strtol(argv[5], NULL, 10);
    CHECK(calls > 0, "%s is not a number of calls", argv[5]);
    double start = now_ns();
    for (long k = 0; k < calls; k++) run(handle, inputs, counts[0], outputs, counts[1], workspace, bytes, NULL);
    printf("%f\n", (now_ns() - start) / (double)calls);
  }

  FILE *response = fopen(argv[4], "wb");
  CHECK(response, "cannot write %s", argv[4]);
  for (int k = 0; k < counts[1]; k++) {
    octavo_tensor *t = &outputs[k];
    int64_t total = size_of(t->dtype);
    for (int d = 0; d < t->rank; d++) total *= t->shape[d];
    fwrite(&t->dtype, 4, 1, response);
    fwrite(&t->rank, 4, 1, response);
    fwrite(t->shape, 8, (size_t)t->rank, response);
    fwrite(&total, 8, 1, response);
    fwrite(t->data, 1, (size_t)total, response);
  }
  CHECK(fclose(response) == 0, "cannot write %s", argv[4]);
  release(handle);
  return 0;
}
