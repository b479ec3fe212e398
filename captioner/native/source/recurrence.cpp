// What Python calls: the passes as plain C functions, their threads and the processor's state.
#include <omp.h>

#include "backward.h"
#include "buffers.h"
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
template <class Real, class Pass, class Pack, class Run, class Collect>
int in_parallel(Pass& pass, long size, long packs, Pack pack, Run run, long sums, Collect collect) {
  Block scratch(size);
  if (!scratch.address) return 1;
  pass.use_scratch(static_cast<Real*>(scratch.address));
#pragma omp parallel num_threads(pass.workers) if (pass.workers > 1)
  {
    const NoDenormals no_denormals;
#pragma omp for schedule(static)
    for (long number = 0; number < packs; ++number) pack(number);
#pragma omp for schedule(static)
    for (long number = 0; number < pass.slices; ++number)
      run(omp_get_thread_num(), Slice(number, pass.slices, pass.batch, pass.call.lengths));
#pragma omp for schedule(static)
    for (long number = 0; number < sums; ++number) collect(number);
  }
  return 0;
}

template <class Real>
int forward(const ForwardCall<Real>& call) {
  Forward<Real> pass(call);
  return in_parallel<Real>(
      pass, pass.scratch_size() * sizeof(Real), pass.layout.panels,
      [&](long panel) { pass.pack(panel); },
      [&](long worker, const Slice& slice) { pass.run(worker, slice); }, 0, [](long) {});
}

template <class Real>
int backward(const BackwardCall<Real>& call) {
  Backward<Real> pass(call);
  return in_parallel<Real>(
      pass, pass.scratch_size() * sizeof(Real), pass.packs(),
      [&](long number) { pass.pack(number); },
      [&](long worker, const Slice& slice) { pass.run(worker, slice); },
      pass.sums_weights ? pass.layout.panels : 0, [&](long panel) { pass.collect(panel); });
}

}  // namespace

extern "C" {
EXPORT_CALL(hdetach_forward, ForwardCall<float>)
EXPORT_CALL(hdetach_backward, BackwardCall<float>)
// Both return 0, or 1 where memory is short.
int hdetach_forward_float32(const ForwardCall<float>* call) { return forward(*call); }
int hdetach_forward_float64(const ForwardCall<double>* call) { return forward(*call); }
int hdetach_backward_float32(const BackwardCall<float>* call) { return backward(*call); }
int hdetach_backward_float64(const BackwardCall<double>* call) { return backward(*call); }
int hdetach_vector_bytes() { return VECTOR_BYTES; }
int hdetach_threads() { return omp_get_max_threads(); }
}
