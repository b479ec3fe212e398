// How many multiplications with an addition a core does at best: loops on registers alone.
//
// The rates are of AVX2: twelve chains of fused multiplications in float32, and six of products of
// bytes added up in 32 bits. Prints both, in thousand millions a second, the best of eight.

#include <cstdio>
#include <ctime>

static double seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static const long TURNS = 10'000'000;
static const int ROUNDS = 8;

#define FUSED(sum) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" sum "\n"
#define BYTES(sum, product)                                  \
    "vpmaddubsw %%ymm15, %%ymm14, %%ymm" product "\n"        \
    "vpmaddwd %%ymm13, %%ymm" product ", %%ymm" product "\n" \
    "vpaddd %%ymm" product ", %%ymm" sum ", %%ymm" sum "\n"
#define REGISTERS                                                                                 \
    "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10",      \
        "ymm11", "ymm13", "ymm14", "ymm15", "cc"

static void in_float32() {
    long turns = TURNS;
    __asm__ volatile(
        "vzeroall\n 1:\n" FUSED("0") FUSED("1") FUSED("2") FUSED("3") FUSED("4") FUSED("5")
            FUSED("6") FUSED("7") FUSED("8") FUSED("9") FUSED("10") FUSED("11")
        "dec %0\n jnz 1b"
        : "+r"(turns)::REGISTERS);
}

static void in_int8() {
    long turns = TURNS;
    __asm__ volatile(
        "vzeroall\n 1:\n" BYTES("0", "6") BYTES("1", "7") BYTES("2", "8") BYTES("3", "9")
            BYTES("4", "10") BYTES("5", "11")
        "dec %0\n jnz 1b"
        : "+r"(turns)::REGISTERS);
}

static double best(void (*loop)(), int multiplications_a_turn) {
    double most = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        double began = seconds();
        loop();
        double rate = TURNS * static_cast<double>(multiplications_a_turn) / (seconds() - began);
        if (rate > most) most = rate;
    }
    return most / 1e9;
}

int main() { std::printf("%.2f %.2f\n", best(in_float32, 12 * 8), best(in_int8, 6 * 32)); }
