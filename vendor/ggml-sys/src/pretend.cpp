// Devices that nobody has, for plans of what would fit on them.
//
// They have a name, memory and the habits of CUDA as far as sizes go: alignment, padded rows of quantized
// matrices, copies in f16 that attention makes of other caches, and large products taken over from the
// processor. They hold nothing and compute nothing, but ggml's own planner cannot tell, so what it says a graph
// needs on them is what it would say with the cards in the machine. They are not in ggml's registry.

#include "ggml-backend-impl.h"

#include <string>

namespace {

// CUDA's.
constexpr size_t ALIGNMENT = 128;
constexpr int64_t ROW_PADDING = 512;
constexpr int64_t OFFLOAD_MIN_BATCH = 32;

struct pretended {
    std::string name;
    std::string description;
    size_t memory;
    ggml_backend_device device;
    ggml_backend_buffer_type buffer_type;
};

pretended * of(ggml_backend_dev_t device) {
    return (pretended *) device->context;
}

// Buffer type: sizes, and never a buffer with bytes. Those of no bytes are ggml's own.

const char * buft_name(ggml_backend_buffer_type_t buft) {
    return ((pretended *) buft->context)->name.c_str();
}

ggml_backend_buffer_t buft_alloc(ggml_backend_buffer_type_t, size_t) {
    return nullptr;
}

size_t buft_alignment(ggml_backend_buffer_type_t) {
    return ALIGNMENT;
}

size_t in_f16(const ggml_tensor * tensor) {
    return tensor->type == GGML_TYPE_F16 ? 0 : ALIGNMENT + 2 * (size_t) ggml_nelements(tensor);
}

size_t buft_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    size_t size = ggml_nbytes(tensor);
    if (tensor->op == GGML_OP_FLASH_ATTN_EXT) {
        size += in_f16(tensor->src[1]) + in_f16(tensor->src[2]);
    }
    const int64_t rest = tensor->ne[0] % ROW_PADDING;
    if (ggml_is_quantized(tensor->type) && rest != 0) {
        size += ggml_row_size(tensor->type, ROW_PADDING - rest);
    }
    return size;
}

// Backend: exists.

const char * backend_name(ggml_backend_t backend) {
    return of(backend->device)->name.c_str();
}

void backend_free(ggml_backend_t backend) {
    delete backend;
}

ggml_status backend_compute(ggml_backend_t, ggml_cgraph *) {
    return GGML_STATUS_FAILED;
}

ggml_guid_t backend_guid() {
    static ggml_guid guid = { 'g', 'u', 's', 't', ' ', 'p', 'r', 'e', 't', 'e', 'n', 'd', 'e', 'd', 0, 0 };
    return &guid;
}

// Device.

const char * device_name(ggml_backend_dev_t device) {
    return of(device)->name.c_str();
}

const char * device_description(ggml_backend_dev_t device) {
    return of(device)->description.c_str();
}

void device_memory(ggml_backend_dev_t device, size_t * free, size_t * total) {
    *free = *total = of(device)->memory;
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    *props = {};
    props->name = device_name(device);
    props->description = device_description(device);
    device_memory(device, &props->memory_free, &props->memory_total);
    props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
}

ggml_backend_t device_init(ggml_backend_dev_t device, const char *) {
    ggml_backend_i functions = {};
    functions.get_name = backend_name;
    functions.free = backend_free;
    functions.graph_compute = backend_compute;
    return new ggml_backend { backend_guid(), functions, device, nullptr };
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device) {
    return &of(device)->buffer_type;
}

// Heads that CUDA has attention for.
bool has_attention(int64_t n_embd_head) {
    for (int64_t n : { 40, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576 }) {
        if (n == n_embd_head) {
            return true;
        }
    }
    return false;
}

bool device_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM:
            return false;
        case GGML_OP_FLASH_ATTN_EXT:
            return has_attention(op->src[1]->ne[0]);
        default:
            return true;
    }
}

bool device_supports_buft(ggml_backend_dev_t device, ggml_backend_buffer_type_t buft) {
    return buft == &of(device)->buffer_type;
}

bool device_offload_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GET_ROWS:
            return false;
        case GGML_OP_MUL_MAT:
            return op->ne[1] >= OFFLOAD_MIN_BATCH;
        case GGML_OP_MUL_MAT_ID:
        case GGML_OP_ROPE:
        case GGML_OP_ROPE_BACK:
            return op->ne[2] >= OFFLOAD_MIN_BATCH;
        default:
            return ggml_nrows(op) >= OFFLOAD_MIN_BATCH;
    }
}

// Registry entry, which nothing registers; questions about functions and the backend's name lead here.

const char * reg_name(ggml_backend_reg_t) {
    return "pretended";
}

size_t reg_count(ggml_backend_reg_t) {
    return 0;
}

ggml_backend_dev_t reg_device(ggml_backend_reg_t, size_t) {
    return nullptr;
}

ggml_backend_reg_t reg() {
    static ggml_backend_reg reg = {
        GGML_BACKEND_API_VERSION, { reg_name, reg_count, reg_device, nullptr }, nullptr
    };
    return &reg;
}

} // namespace

// A device that lives as long as the program.
extern "C" ggml_backend_dev_t gust_pretend_gpu(const char * name, const char * description, size_t memory) {
    pretended * it = new pretended { name, description, memory, {}, {} };
    ggml_backend_device_i functions = {};
    functions.get_name = device_name;
    functions.get_description = device_description;
    functions.get_memory = device_memory;
    functions.get_type = device_type;
    functions.get_props = device_props;
    functions.init_backend = device_init;
    functions.get_buffer_type = device_buffer_type;
    functions.supports_op = device_supports_op;
    functions.supports_buft = device_supports_buft;
    functions.offload_op = device_offload_op;
    it->device = { functions, reg(), it };
    ggml_backend_buffer_type_i sizes = {};
    sizes.get_name = buft_name;
    sizes.alloc_buffer = buft_alloc;
    sizes.get_alignment = buft_alignment;
    sizes.get_alloc_size = buft_alloc_size;
    it->buffer_type = { sizes, &it->device, it };
    return &it->device;
}
