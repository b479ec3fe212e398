// The structs that Python passes, which tell it their own fields.
#pragma once

#include <cstdint>

// Declares fields of 8 bytes each, and their text: Python reads the names from it (library.py).
#define CALL_FIELDS(...) \
  __VA_ARGS__            \
  static constexpr const char* fields = #__VA_ARGS__;

// Exports what `name` expects as NAME_fields and NAME_size.
#define EXPORT_CALL(name, Call)                        \
  const char* name##_fields() { return Call::fields; } \
  int64_t name##_size() { return sizeof(Call); }
