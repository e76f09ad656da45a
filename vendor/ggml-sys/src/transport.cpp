// The way of ggml's RPC bytes, in place of ggml-rpc/transport.cpp.
//
// ggml's own file opens TCP ports that ask nobody who they are. This one opens nothing: every connection
// is one that the program made, checked and encrypted before ggml hears of it. An endpoint such as
// "worker:0" is a label which the program looks up in its table; a label that it does not know gives no
// connection, and neither does an address.

#include "transport.h"

#include <cstring>

extern "C" {

// Functions of the program; gust::ggml::rpc has their other half. None of them throws.
struct gust_rpc_transport {
    void * (*connect)(const char * host, int port);
    void * (*listen)(const char * host, int port);
    void * (*accept)(void * listener);
    bool (*send)(void * stream, const void * data, size_t size);
    bool (*receive)(void * stream, void * data, size_t size);
    bool (*flush)(void * stream);
    void (*close)(void * stream_or_listener);
};

static gust_rpc_transport transport = {};

// Called once, before anything else of RPC.
void gust_rpc_set_transport(const gust_rpc_transport * functions) {
    transport = *functions;
}

} // extern "C"

struct socket_t::impl {
    void * handle;

    explicit impl(void * handle) : handle(handle) {}
    ~impl() { transport.close(handle); }
};

socket_t::socket_t(std::unique_ptr<impl> p) : pimpl(std::move(p)) {}

socket_t::~socket_t() = default;

bool socket_t::send_data(const void * data, size_t size) {
    return transport.send(pimpl->handle, data, size);
}

bool socket_t::recv_data(void * data, size_t size) {
    return transport.receive(pimpl->handle, data, size);
}

bool socket_t::flush() {
    return transport.flush(pimpl->handle);
}

socket_ptr socket_t::accept() {
    void * handle = transport.accept(pimpl->handle);
    return handle == nullptr ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(handle)));
}

socket_ptr socket_t::create_server(const char * host, int port) {
    void * handle = transport.listen == nullptr ? nullptr : transport.listen(host, port);
    return handle == nullptr ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(handle)));
}

socket_ptr socket_t::connect(const char * host, int port) {
    void * handle = transport.connect == nullptr ? nullptr : transport.connect(host, port);
    return handle == nullptr ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(handle)));
}

// There is no other way to change to, such as RDMA.
void socket_t::get_caps(uint8_t * local_caps) {
    std::memset(local_caps, 0, RPC_CONN_CAPS_SIZE);
}

void socket_t::update_caps(const uint8_t * remote_caps) {
    (void) remote_caps;
}

const char * socket_t::transport_name() const {
    return "gust";
}

bool rpc_transport_init() {
    return transport.connect != nullptr;
}

void rpc_transport_shutdown() {}
