// A driver that is none: an image is the path of a kernel that was compiled for the CPU.
#include <dlfcn.h>

#include <cstring>

struct Attribute {
  int id, pad;
  unsigned value[3];
  char rest[52];
};
struct Config {
  unsigned grid[3], block[3], shared;
  void *stream;
  Attribute *attributes;
  unsigned count;
};
static int shared_allowed;
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDeviceGetAttribute(int *value, int which, int) {
  *value = which == 16 ? 132 : which == 75 ? 9 : which == 97 ? 232448 : 0;
  return 0;
}
int cuModuleLoadData(void **module, const void *image) {
  *module = dlopen(static_cast<const char *>(image), RTLD_NOW | RTLD_LOCAL);
  return *module ? 0 : 200;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = strcmp(name, "ostinato_run") ? nullptr : dlsym(module, "launch");
  return *function ? 0 : 500;
}
int cuFuncSetAttribute(void *, int which, int value) {
  if (which == 8) shared_allowed = value;
  return 0;
}
int cuGetErrorString(int, const char **text) { return *text = "of the driver that is none", 0; }
int cuLaunchKernelEx(const Config *c, void *function, void **arguments, void **) {
  int cluster = 1;
  for (unsigned i = 0; i < c->count; ++i)
    if (c->attributes[i].id == 4) cluster = c->attributes[i].value[0];
  if (static_cast<int>(c->shared) > shared_allowed || c->block[0] != 64 || c->grid[0] % cluster) return 1;
  auto launch = reinterpret_cast<int (*)(void *, int, int, long)>(function);
  return launch(arguments[0], c->grid[0], cluster, c->shared) ? 719 : 0;
}
}
