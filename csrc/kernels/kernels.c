#include "kernels/kernels.h"

#include <string.h>

#include "base/cpu.h"

typedef struct isa_entry {
    const char *name;
    void (*overlay)(pe_kernels *table); /* NULL: not compiled in */
} isa_entry;

/* Ascending: each builds on those before it. */
static const isa_entry ISAS[] = {
    {"ref", pe_kernels_overlay_ref},
#if defined(__x86_64__)
    {"avx2", pe_kernels_overlay_avx2},
    {"avx512vnni", pe_kernels_overlay_avx512vnni},
#ifdef PE_AMX
    {"amx", pe_kernels_overlay_amx},
#else
    {"amx", NULL},
#endif
#endif
};
enum { N_ISAS = sizeof ISAS / sizeof ISAS[0], AMX = 3 };

/* Why this machine does not run an instruction set; NULL if it does. */
static const char *missing(int i, const pe_cpu *cpu) {
    const pe_support support[] = {PE_OFFERED, cpu->avx2, cpu->avx512vnni, cpu->amx};
    if (support[i] == PE_LACKED) return "the CPU lacks it";
    if (!ISAS[i].overlay) return "the assembler of this build did not know it";
    if (support[i] == PE_REFUSED || (i == AMX && !pe_cpu_permits_amx())) return "the operating system refuses it";
    return NULL;
}

const pe_isa *pe_isa_list(const char *most, int *count) {
    static pe_isa list[N_ISAS];
    const pe_cpu cpu = pe_cpu_detect();
    bool above = false;
    for (int i = 0; i < N_ISAS; i++) {
        list[i] = (pe_isa){ISAS[i].name, above ? "nobody asked" : missing(i, &cpu)};
        above = above || (most && strcmp(most, ISAS[i].name) == 0);
    }
    *count = N_ISAS;
    return list;
}

pe_status pe_kernels_init(pe_kernels *table, const char *isa) {
    const pe_cpu cpu = pe_cpu_detect();
    int chosen = N_ISAS - 1;
    while (chosen >= 0 && ((isa && strcmp(isa, ISAS[chosen].name) != 0) || missing(chosen, &cpu))) chosen--;
    if (chosen < 0) return PE_BAD_ARGUMENT;
    memset(table, 0, sizeof *table);
    for (int i = 0; i <= chosen; i++) ISAS[i].overlay(table);
    table->isa = ISAS[chosen].name;
    return PE_OK;
}
