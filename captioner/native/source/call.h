// The structs that Python passes, which tell it their own fields.
#pragma once

#include <cstdint>

// Declares fields of 8 bytes each, and their text: Python reads the names from it (library.py).
#define CALL_FIELDS(...) \
  __VA_ARGS__            \
  static constexpr const char* fields = #__VA_ARGS__;

constexpr int64_t count_fields(const char* text) {
  int64_t count = 0;
  for (; *text; ++text) count += *text == ',' || *text == ';';
  return count;
}

// Exports what `name` expects as NAME_fields.
#define EXPORT_CALL(name, Call)                                  \
  static_assert(sizeof(Call) == 8 * count_fields(Call::fields),  \
                "each field of " #name " must have 8 bytes");    \
  const char* name##_fields() { return Call::fields; }
