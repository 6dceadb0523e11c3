// Runs a compiled network once on TVM's runtime, without Python.
//
// usage: run_network net.so threads inputs outputs
//
// `inputs`, native byte order, one record a tensor in the model's order, until the end of the file: int32 DLPack type
// code, int32 bits, int32 dimensions, int64 for each, and the elements.  `outputs` receives every output in that form.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <dlpack/dlpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { LINE = 64, MAX_INPUTS = 16, MAX_DIMENSIONS = 8, MAX_WEIGHTS = 4096, CPU = 1, POOLED = 2 };

static void fail(const char *where) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  const TVMFFIErrorCell *cell = error ? (const TVMFFIErrorCell *)((char *)error + sizeof(TVMFFIObject)) : NULL;
  fprintf(stderr, "%s: %.*s\n", where, cell ? (int)cell->message.size : 0, cell ? cell->message.data : "");
  exit(1);
}

static TVMFFIAny integer(int64_t value) { return (TVMFFIAny){.type_index = kTVMFFIInt, .v_int64 = value}; }
static TVMFFIAny text(const char *value) { return (TVMFFIAny){.type_index = kTVMFFIRawStr, .v_c_str = value}; }

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count, const char *name) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  if (TVMFFIFunctionCall(function, arguments, count, &result)) fail(name);
  return result;
}

static TVMFFIAny call_global(const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&key, &function) || !function) fail(name);
  return call(function, arguments, count, name);
}

// Of the module or one that it imports.
static TVMFFIAny call_member(TVMFFIAny module, const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIAny function = call_global("ffi.ModuleGetFunction", (TVMFFIAny[]){module, text(name), integer(1)}, 3);
  if (function.type_index != kTVMFFIFunction) fail(name);
  return call(function.v_obj, arguments, count, name);
}

static size_t bytes_of(const DLTensor *tensor) {
  size_t bytes = (tensor->dtype.bits + 7) / 8;
  for (int i = 0; i < tensor->ndim; i++) bytes *= tensor->shape[i];
  return bytes;
}

static void read_exactly(void *memory, size_t bytes, FILE *file) {
  if (fread(memory, 1, bytes, file) != bytes) fail("the inputs end early");
}

// A tensor on memory that stays, or on memory of its own if `data` is NULL.
static TVMFFIAny new_tensor(DLDataType dtype, int dimensions, const int64_t *shape, void *data) {
  DLManagedTensor *managed = calloc(1, sizeof *managed);
  DLTensor *tensor = &managed->dl_tensor;
  tensor->device.device_type = kDLCPU;
  tensor->dtype = dtype;
  tensor->ndim = dimensions;
  tensor->shape = calloc(2 * MAX_DIMENSIONS, sizeof *tensor->shape);
  tensor->strides = tensor->shape + MAX_DIMENSIONS;
  memcpy(tensor->shape, shape, dimensions * sizeof *shape);
  for (int64_t i = dimensions - 1, stride = 1; i >= 0; stride *= shape[i--]) tensor->strides[i] = stride;
  tensor->data = data ? data : aligned_alloc(LINE, (bytes_of(tensor) + LINE - 1) / LINE * LINE);
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFITensorFromDLPack(managed, LINE, 1, &handle)) fail("a tensor");
  return (TVMFFIAny){.type_index = kTVMFFITensor, .v_obj = handle};
}

static DLTensor *tensor_of(TVMFFIAny value) { return (DLTensor *)((char *)value.v_obj + sizeof(TVMFFIObject)); }

// Whether there was another tensor.
static int read_tensor(FILE *file, TVMFFIAny *argument) {
  int32_t head[3];
  int64_t shape[MAX_DIMENSIONS];
  size_t got = fread(head, sizeof *head, 3, file);
  if (got == 0) return 0;
  if (got != 3 || head[2] > MAX_DIMENSIONS) fail("bad inputs");
  read_exactly(shape, head[2] * sizeof *shape, file);
  *argument = new_tensor((DLDataType){(uint8_t)head[0], (uint8_t)head[1], 1}, head[2], shape, NULL);
  read_exactly(tensor_of(*argument)->data, bytes_of(tensor_of(*argument)), file);
  return 1;
}

static DLDataType dtype_of(const char *name) {
  uint8_t code = name[0] == 'u' ? kDLUInt : name[0] == 'f' ? kDLFloat : kDLInt;
  return (DLDataType){code, (uint8_t)atoi(name + strcspn(name, "0123456789")), 1};
}

// What follows a key of the JSON that the library says about itself.
static const char *after(const char *json, const char *key) {
  const char *found = strstr(json, key);
  if (!found) fail(key);
  return found + strlen(key);
}

// Gives `main` its weights: those that lie in the library, and those that functions of the library make of them.
static void bind_weights(TVMFFIAny library, TVMFFIAny machine, const char *path) {
  TVMFFIAny metadata = call_member(machine, "selector_metadata", NULL, 0);
  char *json = strndup(tensor_of(metadata)->data, bytes_of(tensor_of(metadata)));
  const char *row = after(json, "\"weights\": [");
  if (*row == ']') return;
  char *start = dlsym(dlopen(path, RTLD_NOW), "selector_weights");
  if (!start) fail("selector_weights");
  TVMFFIAny arguments[MAX_WEIGHTS] = {text("main"), text("main"), integer(1)};
  int count = 3;
  for (; *row == '{' && count < MAX_WEIGHTS; row += strcspn(row, "}") + 1, row += strspn(row, ", ")) {
    char dtype[16], maker[128] = "", stored_dtype[16] = "";
    int64_t shape[MAX_DIMENSIONS], stored = atoll(after(row, "\"stored_size\": "));
    char *data = start + atoll(after(row, "\"offset\": ")), *next = (char *)after(row, "\"shape\": [");
    int dimensions = 0;
    for (; *next != ']'; next += strspn(next, ", ")) shape[dimensions++] = strtoll(next, &next, 10);
    sscanf(after(row, "\"dtype\": \""), "%15[^\"]", dtype);
    sscanf(after(row, "\"maker\": \""), "%127[^\"]", maker);
    sscanf(after(row, "\"stored_dtype\": \""), "%15[^\"]", stored_dtype);
    arguments[count] = new_tensor(dtype_of(dtype), dimensions, shape, *maker ? NULL : data);
    if (*maker) {
      TVMFFIAny both[] = {new_tensor(dtype_of(stored_dtype), 1, &stored, data), arguments[count]};
      call_member(library, maker, both, 2);
    }
    count++;
  }
  call_member(machine, "save_function", arguments, count);
}

static void write_tensor(TVMFFIAny value, FILE *file) {
  if (value.type_index != kTVMFFITensor) fail("an output is no tensor");
  const DLTensor *tensor = tensor_of(value);
  int32_t head[3] = {tensor->dtype.code, tensor->dtype.bits, tensor->ndim};
  fwrite(head, sizeof *head, 3, file);
  fwrite(tensor->shape, sizeof *tensor->shape, tensor->ndim, file);
  fwrite((char *)tensor->data + tensor->byte_offset, 1, bytes_of(tensor), file);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  TVMFFIAny library = call_global("ffi.ModuleLoadFromFile", (TVMFFIAny[]){text(argv[1])}, 1);
  TVMFFIAny machine = call_member(library, "vm_load_executable", NULL, 0);
  call_member(machine, "vm_initialization", (TVMFFIAny[]){integer(CPU), integer(0), integer(POOLED)}, 3);
  call_global("runtime.config_threadpool", (TVMFFIAny[]){integer(1), integer(atoi(argv[2]))}, 2);
  bind_weights(library, machine, argv[1]);

  TVMFFIAny inputs[MAX_INPUTS];
  int count = 0;
  FILE *file = fopen(argv[3], "rb");
  if (!file) fail(argv[3]);
  while (count < MAX_INPUTS && read_tensor(file, &inputs[count])) count++;
  fclose(file);

  TVMFFIAny result = call_member(machine, "main", inputs, count);
  file = fopen(argv[4], "wb");
  if (!file) fail(argv[4]);
  if (result.type_index == kTVMFFIArray) {
    int64_t outputs = call_global("ffi.ArraySize", &result, 1).v_int64;
    for (int64_t i = 0; i < outputs; i++)
      write_tensor(call_global("ffi.ArrayGetItem", (TVMFFIAny[]){result, integer(i)}, 2), file);
  } else {
    write_tensor(result, file);
  }
  if (fclose(file)) fail(argv[4]);
  return 0;
}
