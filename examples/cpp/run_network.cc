// Runs a network that `selector compile net.onnx --no-lazy-weights -o net.so` wrote, without Python.
//
// usage: run_network net.so x.bin y.bin
//
// x.bin holds the elements of every input, y.bin receives those of every output: tensor after tensor, row by row, in the
// machine's byte order, as numpy's `tofile` writes them.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr int kPooled = 2;         // TVM's allocator that keeps what a run has freed for the next
constexpr size_t kAlignment = 64;  // bytes; what TVM's kernels expect of every tensor

struct Aligned {
  void AllocData(DLTensor* tensor) {
    const size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

std::string text_of(const ffi::Tensor& tensor) {
  return {static_cast<const char*>(tensor.data_ptr()), ffi::GetDataSize(tensor.numel(), tensor.dtype())};
}

// An input as the compiler wrote it down: {"name": "x", "shape": [1, 3, 224, 224], "dtype": "float32"}.
ffi::Tensor read_input(const ffi::json::Object& spec, std::istream& file) {
  std::vector<int64_t> shape;
  for (const ffi::Any& size : spec["shape"].cast<ffi::json::Array>()) shape.push_back(size.cast<int64_t>());
  const DLDataType dtype = ffi::StringToDLDataType(spec["dtype"].cast<ffi::String>());
  ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(Aligned(), ffi::ShapeView(shape.data(), shape.size()), dtype, {kDLCPU, 0});
  if (!file.read(static_cast<char*>(tensor.data_ptr()), ffi::GetDataSize(tensor.numel(), tensor.dtype())))
    throw std::runtime_error("the input ends early");
  return tensor;
}

void run(const char* library, const char* input, const char* output) {
  // an absolute path, because the loader looks a bare name up in the system's folders
  ffi::Module module = ffi::Module::LoadFromFile(std::filesystem::absolute(library).string());
  ffi::Module machine = module->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooled);
  const ffi::json::Object metadata =
      ffi::json::Parse(text_of(machine->GetFunction("selector_metadata").value()().cast<ffi::Tensor>()))
          .cast<ffi::json::Object>();
  if (!metadata["weights"].cast<ffi::json::Array>().empty())
    throw std::runtime_error("its weights are to be made first: compile it with --no-lazy-weights");
  // read once, when the first kernel runs; half of the cores is TVM's own default
  setenv("TVM_NUM_THREADS", std::to_string(metadata["threads"].cast<int64_t>()).c_str(), /*overwrite=*/0);

  std::ifstream in(input, std::ios::binary);
  std::vector<ffi::Any> inputs;  // of `main`; a library of several shapes has main_1, main_2, ... as well
  for (const ffi::Any& spec : metadata["functions"].cast<ffi::json::Object>()["main"].cast<ffi::json::Array>())
    inputs.push_back(read_input(spec.cast<ffi::json::Object>(), in));
  if (in.peek() != EOF) throw std::runtime_error("the input is too long");

  std::vector<ffi::AnyView> views(inputs.begin(), inputs.end());
  ffi::Any result;
  machine->GetFunction("main").value().CallPacked(views.data(), views.size(), &result);

  std::ofstream out(output, std::ios::binary);
  if (auto one = result.as<ffi::Tensor>()) {
    out << text_of(*one);
  } else {
    for (const ffi::Tensor& tensor : result.cast<ffi::Array<ffi::Tensor>>()) out << text_of(tensor);
  }
  if (!out.flush()) throw std::runtime_error("the output cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: run_network net.so x.bin y.bin\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
