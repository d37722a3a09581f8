/* The part of Envoy's dynamic module ABI that we use, as Envoy 1.40 has it (ABI v0.2.0). */

#ifndef HEADGATE_ENVOY_ABI_H
#define HEADGATE_ENVOY_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEADGATE_ABI "v0.2.0"

#define EXPORT __attribute__((visibility("default")))
#define CALL(name) envoy_dynamic_module_callback_##name
#define HOOK(name) envoy_dynamic_module_on_##name

typedef struct {
  const char* ptr;
  size_t length;
} Text; /* both of Envoy's buffers and of ours */

typedef struct {
  const char* key;
  size_t key_length;
  const char* value;
  size_t value_length;
} Pair;

enum HeaderKind { REQUEST_HEADERS, REQUEST_TRAILERS, RESPONSE_HEADERS, RESPONSE_TRAILERS };
enum BodyKind { RECEIVED_REQUEST, BUFFERED_REQUEST, RECEIVED_RESPONSE, BUFFERED_RESPONSE };
enum HeadersStatus { HEADERS_CONTINUE, HEADERS_STOP, HEADERS_CONTINUE_OPEN, HEADERS_STOP_ALL_BUFFER, HEADERS_STOP_ALL };
enum BodyStatus { BODY_CONTINUE, BODY_BUFFER, BODY_WATERMARK, BODY_NO_BUFFER };
enum TrailersStatus { TRAILERS_CONTINUE, TRAILERS_STOP };
enum LogLevel { LOG_TRACE, LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void CALL(log)(int level, Text message);
bool CALL(log_enabled)(int level);
bool CALL(is_validation_mode)(void);
const void* CALL(get_most_specific_route_config)(void* filter); /* what per_route_config_new returned, or NULL */

bool CALL(http_get_header)(void* filter, int kind, Text key, Text* value, size_t index, size_t* count);
size_t CALL(http_get_headers_size)(void* filter, int kind);
bool CALL(http_get_headers)(void* filter, int kind, Pair* into);
bool CALL(http_set_header)(void* filter, int kind, Text key, Text value); /* a null value removes */
bool CALL(http_add_header)(void* filter, int kind, Text key, Text value);

size_t CALL(http_get_body_size)(void* filter, int kind);
size_t CALL(http_get_body_chunks_size)(void* filter, int kind);
bool CALL(http_get_body_chunks)(void* filter, int kind, Text* into);
bool CALL(http_append_body)(void* filter, int kind, Text data);
bool CALL(http_drain_body)(void* filter, int kind, size_t bytes);
uint64_t CALL(http_get_buffer_limit)(void* filter);
void CALL(http_set_buffer_limit)(void* filter, uint64_t limit);

void CALL(http_send_response)(void* filter, uint32_t status, Pair* headers, size_t count, Text body, Text details);
void CALL(http_clear_route_cache)(void* filter);
void CALL(http_filter_continue_decoding)(void* filter);
void CALL(http_filter_continue_encoding)(void* filter);

bool CALL(http_filter_get_attribute_string)(void* filter, int attribute, Text* value);
bool CALL(http_filter_get_attribute_int)(void* filter, int attribute, uint64_t* value);
void CALL(http_set_dynamic_metadata_string)(void* filter, Text space, Text key, Text value);
void CALL(http_set_dynamic_metadata_number)(void* filter, Text space, Text key, double value);
void CALL(http_set_dynamic_metadata_bool)(void* filter, Text space, Text key, bool value);

void CALL(http_filter_reset_stream)(void* filter, int reason, Text details);

void* CALL(http_filter_scheduler_new)(void* filter);
void CALL(http_filter_scheduler_commit)(void* scheduler, uint64_t event);
void CALL(http_filter_scheduler_delete)(void* scheduler);
int CALL(http_filter_http_callout)(void* filter, uint64_t* id, Text cluster, Pair* headers, size_t count, Text body,
                                   uint64_t milliseconds);

#endif
