/* The plugins of plugins.py once more, as a Wasm filter by hand: proxy-wasm's ABI 0.2.1, no library, no SDK.
 *
 * clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry -o wasm_samples.wasm wasm_samples.c
 */
typedef unsigned int u32;

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) u32 name
#define EXPORT(name) __attribute__((export_name(#name)))
#define SIZE(text) (sizeof(text) - 1)

enum { CONTINUE = 0, PAUSE = 1 };
enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { REQUEST_BODY = 0, CONFIGURATION = 7 };

IMPORT(proxy_get_header_map_value)(u32 map, const char* key, u32 key_size, char** value, u32* size);
IMPORT(proxy_replace_header_map_value)(u32 map, const char* key, u32 key_size, const char* value, u32 size);
IMPORT(proxy_get_buffer_bytes)(u32 buffer, u32 start, u32 most, char** data, u32* size);
IMPORT(proxy_set_buffer_bytes)(u32 buffer, u32 start, u32 size, const char* data, u32 data_size);

/* What Envoy hands over lies here, until the next hook. */
static char room[4 << 20];
static u32 used;
static int bodies; /* whether the filter is for bodies, and leaves headers alone */

EXPORT(proxy_on_memory_allocate) void* proxy_on_memory_allocate(u32 size) {
  if (size > sizeof(room) - used) return 0;
  char* given = room + used;
  used += (size + 15) & ~15u;
  return given;
}

static void copy(u32 map, const char* from, u32 from_size, const char* to, u32 to_size) {
  char* value = 0;
  u32 size = 0;
  used = 0;
  if (proxy_get_header_map_value(map, from, from_size, &value, &size) == 0)
    proxy_replace_header_map_value(map, to, to_size, value, size);
}

EXPORT(proxy_on_request_headers) u32 proxy_on_request_headers(u32 context, u32 count, u32 end) {
  if (!bodies) copy(REQUEST_HEADERS, ":path", SIZE(":path"), "x-seen", SIZE("x-seen"));
  return CONTINUE;
}

EXPORT(proxy_on_response_headers) u32 proxy_on_response_headers(u32 context, u32 count, u32 end) {
  if (!bodies) copy(RESPONSE_HEADERS, ":status", SIZE(":status"), "x-told", SIZE("x-told"));
  return CONTINUE;
}

EXPORT(proxy_on_request_body) u32 proxy_on_request_body(u32 context, u32 length, u32 end) {
  char* data = 0;
  u32 size = 0;
  if (!bodies) return CONTINUE;
  if (!end) return PAUSE;
  used = 0;
  if (proxy_get_buffer_bytes(REQUEST_BODY, 0, sizeof(room), &data, &size) != 0) return CONTINUE;
  for (u32 i = 0; i < size; i++)
    if ((data[i] | 32) >= 'a' && (data[i] | 32) <= 'z') data[i] ^= 32;
  proxy_set_buffer_bytes(REQUEST_BODY, 0, size, data, size);
  return CONTINUE;
}

EXPORT(proxy_on_configure) u32 proxy_on_configure(u32 root, u32 size) {
  bodies = size == SIZE("bodies"); /* the other configuration is "headers" */
  return 1;
}

EXPORT(proxy_abi_version_0_2_1) void proxy_abi_version_0_2_1(void) {}
EXPORT(proxy_on_context_create) void proxy_on_context_create(u32 context, u32 root) {}
EXPORT(proxy_on_vm_start) u32 proxy_on_vm_start(u32 root, u32 size) { return 1; }
EXPORT(proxy_on_done) u32 proxy_on_done(u32 context) { return 1; }
EXPORT(proxy_on_log) void proxy_on_log(u32 context) {}
EXPORT(proxy_on_delete) void proxy_on_delete(u32 context) {}
