/* AMX for processors without it: SIGILL of an AMX instruction is answered by doing what Intel's manual says it does.

   Instruction Set Reference, "LDTILECFG", "TILELOADD", "TDPBSSD/TDPBSUD/TDPBUSD/TDPBUUD" and their kin, for palette 1.  Conditions
   that raise #UD or #GP are recorded, and the instruction is skipped: amx_problem() tells the first.  Every thread has tiles of its
   own.  amx_install() goes before the first instruction; other illegal instructions go to whoever was asked before. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, BYTES = 64 };

typedef struct {
    uint8_t configured, rows[TILES];
    uint16_t bytes[TILES];
    uint8_t data[TILES][ROWS][BYTES];
} State;

static _Thread_local State state;
static struct sigaction before;
static char problem[256];
static atomic_int problems, in_use; /* in_use: threads whose tiles are configured */
static atomic_long products;

static void refuse(const char *what, int a, int b) {
    if (atomic_fetch_add(&problems, 1) == 0) snprintf(problem, sizeof problem, "%s (%d, %d)", what, a, b);
}

static void release(void) {
    if (state.configured) atomic_fetch_sub(&in_use, 1);
    memset(&state, 0, sizeof state);
}

static void configure(const uint8_t *from) {
    if (from[0] > 1) return refuse("#GP: ldtilecfg of palette", from[0], 0);
    if (from[0] == 0) return release();
    if (from[1]) return refuse("#GP: ldtilecfg of start row", from[1], 0);
    for (int k = 2; k < 64; k++)
        if ((k < 16 || (k >= 32 && k < 48) || k >= 56) && from[k]) return refuse("#GP: ldtilecfg of a reserved byte", k, from[k]);
    for (int t = 0; t < TILES; t++) {
        int bytes = from[16 + 2 * t] | from[17 + 2 * t] << 8, rows = from[48 + t];
        if (bytes > BYTES || rows > ROWS || !bytes != !rows) return refuse("#GP: ldtilecfg of rows and bytes", rows, bytes);
    }
    release();
    for (int t = 0; t < TILES; t++) {
        state.bytes[t] = from[16 + 2 * t];
        state.rows[t] = from[48 + t];
    }
    state.configured = 1;
    atomic_fetch_add(&in_use, 1);
}

static void describe(uint8_t *to) {
    memset(to, 0, 64);
    to[0] = state.configured;
    for (int t = 0; t < TILES; t++) {
        to[16 + 2 * t] = state.bytes[t];
        to[48 + t] = state.rows[t];
    }
}

static int usable(int t, const char *what) {
    if (t < TILES && state.configured && state.rows[t] && state.bytes[t]) return 1;
    refuse(what, t, state.configured);
    return 0;
}

static void load(int t, const uint8_t *from, int64_t stride) {
    if (!usable(t, "#UD: tileloadd of a tile that has no shape")) return;
    uint8_t rows[ROWS][BYTES] = {{0}};
    for (int r = 0; r < state.rows[t]; r++) memcpy(rows[r], from + r * stride, state.bytes[t]);
    memcpy(state.data[t], rows, sizeof rows);
}

static void store(int t, uint8_t *to, int64_t stride) {
    if (!usable(t, "#UD: tilestored of a tile that has no shape")) return;
    for (int r = 0; r < state.rows[t]; r++) memcpy(to + r * stride, state.data[t][r], state.bytes[t]);
}

static void dot(int sums, int a, int b, int signed_a, int signed_b) {
    const char *shapeless = "#UD: a product of a tile that has no shape";
    if (!usable(sums, shapeless) || !usable(a, shapeless) || !usable(b, shapeless)) return;
    if (sums == a || sums == b || a == b) return refuse("#UD: a product of one tile with itself", a, b);
    if (state.bytes[sums] % 4 || state.bytes[a] % 4 || state.bytes[b] % 4) return refuse("#UD: a product of parts of words", a, b);
    int rows = state.rows[sums], columns = state.bytes[sums] / 4, words = state.bytes[a] / 4;
    if (rows != state.rows[a] || columns * 4 != state.bytes[b] || words != state.rows[b])
        return refuse("#UD: a product of shapes that do not fit", a, b);
    atomic_fetch_add(&products, 1);
    int32_t right[BYTES][ROWS] = {{0}};
    for (int w = 0; w < words; w++)
        for (int c = 0; c < columns; c++)
            for (int k = 0; k < 4; k++) {
                uint8_t byte = state.data[b][w][4 * c + k];
                right[4 * w + k][c] = signed_b ? (int8_t)byte : byte;
            }
    for (int r = 0; r < rows; r++) {
        uint32_t total[ROWS]; /* sums wrap */
        memcpy(total, state.data[sums][r], BYTES);
        for (int k = 0; k < 4 * words; k++) {
            uint8_t byte = state.data[a][r][k];
            int32_t left = signed_a ? (int8_t)byte : byte;
            for (int c = 0; c < ROWS; c++) total[c] += (uint32_t)(left * right[k][c]);
        }
        memcpy(state.data[sums][r], total, 4 * columns);
    }
    memset(state.data[sums][rows], 0, (ROWS - rows) * BYTES);
}

/* general registers in the order of their numbers */
static const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static int32_t read32(const uint8_t *p) {
    int32_t value;
    memcpy(&value, p, 4);
    return value;
}

/* Does the instruction and says how long it is; 0 where it is none of AMX. */
static int emulate(const uint8_t *at, greg_t *registers) {
    if (at[0] != 0xC4 || (at[1] & 31) != 2 || at[2] & 0x84) return 0; /* VEX.128.0F38.W0 */
    int more_reg = !(at[1] & 0x80) * 8, more_index = !(at[1] & 0x40) * 8, more_base = !(at[1] & 0x20) * 8;
    int third = ~at[2] >> 3 & 15, prefix = at[2] & 3, opcode = at[3], modrm = at[4];
    enum { NONE, P66, PF3, PF2 };
    int mode = modrm >> 6, reg = (modrm >> 3 & 7) + more_reg, rm = modrm & 7, length = 5;
    if (mode == 3) {
        if (opcode == 0x49 && prefix == NONE && modrm == 0xC0 && !third) release();
        else if (opcode == 0x49 && prefix == PF2 && !rm && !third) {
            if (usable(reg, "#UD: tilezero of a tile that has no shape")) memset(state.data[reg], 0, sizeof state.data[reg]);
        } else if (opcode == 0x5E)
            dot(reg, rm + more_base, third, prefix == PF3 || prefix == PF2, prefix == P66 || prefix == PF2);
        else return 0;
        return length;
    }
    int64_t base = 0, stride = 0;
    int sib = rm == 4, displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0, relative = 0;
    if (sib) {
        int byte = at[length++], index = (byte >> 3 & 7) + more_index;
        if (index != 4) stride = (int64_t)registers[GENERAL[index]] << (byte >> 6);
        if ((byte & 7) == 5 && mode == 0) displacement = 4;
        else base = registers[GENERAL[(byte & 7) + more_base]];
    } else if (rm == 5 && mode == 0) displacement = 4, relative = 1;
    else base = registers[GENERAL[rm + more_base]];
    if (displacement == 1) base += (int8_t)at[length];
    if (displacement == 4) base += read32(at + length);
    length += displacement;
    if (relative) base += (int64_t)(intptr_t)at + length;
    if (third) return 0;
    if (opcode == 0x49 && !(reg & 7) && (prefix == NONE || prefix == P66)) {
        uint8_t *memory = (uint8_t *)(base + stride);
        if (prefix == NONE) configure(memory);
        else describe(memory);
    } else if (opcode == 0x4B && sib && (prefix == PF2 || prefix == P66)) load(reg, (const uint8_t *)base, stride);
    else if (opcode == 0x4B && sib && prefix == PF3) store(reg, (uint8_t *)base, stride);
    else return 0;
    return length;
}

static void on_illegal(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int length = emulate((const uint8_t *)registers[REG_RIP], registers);
    if (length) registers[REG_RIP] += length;
    else if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) before.sa_handler(number);
    else signal(SIGILL, SIG_DFL); /* and the instruction is tried again */
}

int amx_install(void) {
    struct sigaction now;
    if (sigaction(SIGILL, NULL, &now)) return -1;
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_illegal) return 0;
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGILL, &action, &before);
}

const char *amx_problem(void) { return problems ? problem : ""; }
void amx_forgive(void) { problems = 0; }
int amx_in_use(void) { return in_use; }
long amx_products(void) { return products; }
