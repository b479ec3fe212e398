// What Python calls: the passes as plain C functions, their threads and the processor's state.
#include <omp.h>

#include "backward.h"
#include "forward.h"

namespace {

// Gradients that fade over hundreds of steps end as denormal numbers, on which every operation is a
// hundred times slower and which never fade to nothing. They are taken as zero here, in the thread
// at hand; the state is restored for whatever runs in it next.
class NoDenormals {
 public:
  NoDenormals() : before(read()) { write(before | flush); }
  ~NoDenormals() { write(before); }

 private:
#if defined(__x86_64__)
  typedef unsigned int State;
  static constexpr State flush = 0x8040;  // FTZ and DAZ
  static State read() { return __builtin_ia32_stmxcsr(); }
  static void write(State state) { __builtin_ia32_ldmxcsr(state); }
#elif defined(__aarch64__)
  typedef uint64_t State;
  static constexpr State flush = 1 << 24;  // FZ
  static State read() { State state; asm volatile("mrs %0, fpcr" : "=r"(state)); return state; }
  static void write(State state) { asm volatile("msr fpcr, %0" ::"r"(state)); }
#else
  typedef int State;
  static constexpr State flush = 0;
  static State read() { return 0; }
  static void write(State) {}
#endif
  const State before;
};

// The work of one call: pack, a barrier, the time loop of each slice, a barrier, the sums. OpenMP
// may give fewer threads than there are workers.
template <class Pass, class Real>
void run(Pass pass, Real* scratch) {
  pass.use_scratch(scratch);
#pragma omp parallel num_threads(pass.workers) if (pass.workers > 1)
  {
    const NoDenormals no_denormals;
#pragma omp for schedule(static)
    for (long number = 0; number < pass.packs(); ++number) pass.pack(number);
#pragma omp for schedule(static)
    for (long number = 0; number < pass.slices; ++number)
      pass.run(omp_get_thread_num(), Slice(number, pass.slices, pass.batch, pass.call.lengths));
#pragma omp for schedule(static)
    for (long number = 0; number < pass.sums(); ++number) pass.collect(number);
  }
}

}  // namespace

// A pass works in memory of its caller: as many numbers as NAME_scratch says, from a cache line on.
#define EXPORT_PASS(name, Pass, Real, real)                                  \
  int64_t name##_scratch_##real(const Pass##Call<Real>* call) {              \
    return Pass<Real>(*call).scratch_size();                                 \
  }                                                                          \
  void name##_##real(const Pass##Call<Real>* call, Real* scratch) {          \
    run(Pass<Real>(*call), scratch);                                         \
  }

extern "C" {
EXPORT_CALL(hdetach_forward, ForwardCall<float>)
EXPORT_CALL(hdetach_backward, BackwardCall<float>)
EXPORT_PASS(hdetach_forward, Forward, float, float32)
EXPORT_PASS(hdetach_forward, Forward, double, float64)
EXPORT_PASS(hdetach_backward, Backward, float, float32)
EXPORT_PASS(hdetach_backward, Backward, double, float64)
int hdetach_vector_bytes() { return VECTOR_BYTES; }
int hdetach_threads() { return omp_get_max_threads(); }
}
