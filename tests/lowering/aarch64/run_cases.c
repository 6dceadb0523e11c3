// Runs kernels of a shared library on arrays that end, up to the cache line, at a page which must not be touched.
//
// usage: run_cases kernels.so cases outputs
//
// `cases`, native byte order, one record a call until the end of the file: int32 length of the name, the name;
// int32 arguments; for each int32 DLPack type code, int32 bits, int64 elements; then the bytes of every argument but
// the last, which is the output.  `outputs` receives the bytes of every call's output, one after the other.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <tvm/ffi/c_api.h>

enum { LINE = 64, SENTINEL = 0xA5, MAX_ARGUMENTS = 16, THREADS = 2 };

static const char *kernel = "";

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", kernel, what);
  exit(1);
}

// What a library of kernels imports, or takes from the loader through weak pointers.
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; i++)
    if (parts[i]) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static void *allocate_workspace(int device, int id, uint64_t bytes, int code, int bits) {
  return aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
}

static int free_workspace(int device, int id, void *memory) {
  free(memory);
  return 0;
}

typedef struct {
  void *sync;
  int32_t tasks;
} ParallelEnvironment;

static int launch(int (*task)(int, ParallelEnvironment *, void *), void *closure, int tasks) {
  ParallelEnvironment environment = {NULL, tasks ? tasks : THREADS};
  for (int i = 0; i < environment.tasks; i++) {
    int status = task(i, &environment, closure);
    if (status) return status;
  }
  return 0;
}

static void provide(void *library, const char *name, void *function) {
  void **pointer = dlsym(library, name);
  if (pointer) *pointer = function;
}

typedef struct {
  uint8_t *memory;  // usable bytes, then a page without access
  size_t start, bytes, usable, mapped;
} Guarded;

static Guarded guarded(size_t bytes) {
  size_t page = sysconf(_SC_PAGESIZE), room = (bytes + LINE - 1) / LINE * LINE;
  Guarded array = {NULL, 0, bytes, (room + page - 1) / page * page, 0};
  array.mapped = array.usable + page;
  array.start = array.usable - room;
  array.memory = mmap(NULL, array.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (array.memory == MAP_FAILED || mprotect(array.memory + array.usable, page, PROT_NONE)) fail("no memory");
  memset(array.memory, SENTINEL, array.usable);
  return array;
}

static int intact(const Guarded *array) {
  for (size_t i = 0; i < array->usable; i++)
    if ((i < array->start || i >= array->start + array->bytes) && array->memory[i] != SENTINEL) return 0;
  return 1;
}

static void read_bytes(FILE *file, void *target, size_t bytes) {
  if (bytes && fread(target, bytes, 1, file) != 1) fail("cases end in the middle of a record");
}

static void run_case(void *library, FILE *cases, FILE *outputs) {
  int32_t count;
  Guarded arrays[MAX_ARGUMENTS];
  DLTensor tensors[MAX_ARGUMENTS] = {0};
  TVMFFIAny arguments[MAX_ARGUMENTS] = {0}, result = {0};
  int64_t stride = 1;
  read_bytes(cases, &count, sizeof count);
  if (count < 1 || count > MAX_ARGUMENTS) fail("too many arguments");
  int64_t shapes[MAX_ARGUMENTS];
  for (int i = 0; i < count; i++) {
    int32_t type[2];
    read_bytes(cases, type, sizeof type);
    read_bytes(cases, &shapes[i], sizeof shapes[i]);
    arrays[i] = guarded(shapes[i] * (type[1] / 8));
    tensors[i].data = arrays[i].memory + arrays[i].start;
    tensors[i].device.device_type = kDLCPU;
    tensors[i].ndim = 1;
    tensors[i].dtype.code = type[0];
    tensors[i].dtype.bits = type[1];
    tensors[i].dtype.lanes = 1;
    tensors[i].shape = &shapes[i];
    tensors[i].strides = &stride;
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[i];
  }
  for (int i = 0; i < count - 1; i++) read_bytes(cases, tensors[i].data, arrays[i].bytes);
  char symbol[512];
  snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", kernel);
  TVMFFISafeCallType function = (TVMFFISafeCallType)dlsym(library, symbol);
  if (!function) fail("not in the library");
  if (function(NULL, arguments, count, &result)) fail("the call failed");
  for (int i = 0; i < count; i++) {
    if (!intact(&arrays[i])) fail("wrote outside of its arrays");
    if (i == count - 1) fwrite(tensors[i].data, 1, arrays[i].bytes, outputs);
    munmap(arrays[i].memory, arrays[i].mapped);
  }
}

int main(int argc, char **argv) {
  if (argc != 4) fail("usage: run_cases kernels.so cases outputs");
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (!library) fail(dlerror());
  provide(library, "__TVMBackendAllocWorkspace", allocate_workspace);
  provide(library, "__TVMBackendFreeWorkspace", free_workspace);
  provide(library, "__TVMBackendParallelLaunch", launch);
  FILE *cases = fopen(argv[2], "rb"), *outputs = fopen(argv[3], "wb");
  if (!cases || !outputs) fail("cannot open the cases or the outputs");
  int32_t length;
  while (fread(&length, sizeof length, 1, cases) == 1) {
    char name[256] = "";
    if (length < 0 || length >= (int32_t)sizeof name) fail("name too long");
    read_bytes(cases, name, length);
    kernel = name;
    run_case(library, cases, outputs);
  }
  return fclose(outputs) ? 1 : 0;
}
