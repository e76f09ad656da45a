// What gust asks of a module besides ggml's own `ggml_backend_init`: which ggml it was made of, since tensors of one version
// are not tensors of another, and a way to the log of the module's own copy of ggml.

#include "ggml.h"

#define SHOWN __attribute__((visibility("default")))

SHOWN const char * gust_module_version(void) { return ggml_version(); }

SHOWN void gust_module_log_set(ggml_log_callback callback, void * data) { ggml_log_set(callback, data); }
