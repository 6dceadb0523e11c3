// Serves one session of TVM's RPC on a connected socket, without Python: what TVM's Python server does in the process
// that it starts for a client.
//
// usage: serve_session socket folder
//
// `socket` is an inherited file descriptor; files that the client uploads lie in `folder`.
#include <stdlib.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <string>

namespace ffi = tvm::ffi;

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  std::string folder = argv[2];
  ffi::Function::SetGlobal("tvm.rpc.server.workpath", ffi::Function::FromTyped([folder](ffi::String name) {
                             return ffi::String(folder + "/" + std::string(name));
                           }));
  ffi::Function::SetGlobal("tvm.rpc.server.load_module", ffi::Function::FromTyped([folder](ffi::String name) {
                             return ffi::Module::LoadFromFile(folder + "/" + std::string(name));
                           }));
  ffi::Function::GetGlobalRequired("rpc.ServerLoop")(atoi(argv[1]));
}
